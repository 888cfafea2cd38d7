/** The page: an image from a file or a camera, the head here, the tail on the server, its classes over the image. */

import { Camera, decode, pixelsOf } from "./page/camera.js";
import { Chart } from "./page/chart.js";
import { Asker, Refused } from "./page/infer.js";
import { Plan } from "./page/plan.js";
import { Slices } from "./page/slices.js";
import { Tables } from "./page/tables.js";
import { softmax, topClasses } from "./src/classes.js";
import { CODECS } from "./src/codecs.js";
import { ConfigError, HeadTailError, shown } from "./src/errors.js";
import { Server } from "./src/server.js";
import { codecsAt } from "./transform/calibration.js";

/**
 * @typedef {import("./src/pixels.js").Image} Image
 * @typedef {import("./src/server.js").Served} Served
 */

const SHOWN_CLASSES = 5;
const APPLICATION = new URL(document.documentElement.dataset.application ?? "..", document.baseURI);

/** @type {(id: string) => any} */
const element = (id) => document.getElementById(id);

const [status, error, label, hint, classes] = ["status", "error", "label", "hint", "classes"].map(element);
const [picture, canvas, video, loading] = ["picture", "canvas", "video", "loading"].map(element);
const [tokenField, modelField, chooserField] = ["token", "model", "chooser"].map(element);
const [cutField, codecField, placeField] = ["cut", "codec", "place"].map(element);
const [fileField, cameraButton, againButton] = ["file", "camera", "again"].map(element);

const camera = new Camera(video);
const slices = new Slices((share) => showFetched("slices", share));
const tables = new Tables((share) => showFetched("tables", share));
const chart = new Chart(element("chart"));

const asker = new Asker(new Server(APPLICATION));
/** What is connected. Replaced as a whole, so that a request in flight keeps what it began with. @type {Served | null} */
let served = null;
/** @type {Plan | null} null: cut and codec are chosen by hand, or nothing was planned yet */
let plan = null;
/** @type {Image | null} */
let last = null;
let busy = false;

/** Asks which models there are, with the token of the field. */
async function connect() {
  say("connecting", "busy");
  asker.server = new Server(APPLICATION, tokenField.value.trim()); // no request is in flight: see attempt
  const models = await asker.server.models();
  fill(modelField, models.map((name) => [name, name]));
  if (!models.length) throw new ConfigError("the server has no model now; try again when it has one");
  await chooseModel();
}

/** Learns what the chosen model is, and which slices may run here. */
async function chooseModel() {
  const before = served;
  [served, plan] = [null, null];
  const found = await asker.server.describe(modelField.value);
  if (found.onnx !== before?.onnx) await slices.release(); // a model that was calibrated again has the same slices
  tables.keep(found);
  if (found.preprocessing === null) {
    throw new ConfigError(`model ${shown(found.name)}: the server cannot say how its images are preprocessed; choose another one`);
  }
  if (found.shapes[found.shapes.length - 1].length !== 1) {
    throw new ConfigError(`model ${shown(found.name)} gives no classes, which is all that this page shows; choose another one`);
  }
  const files = await asker.server.headSlices(found);
  const cuts = [...found.entries, found.sliceBytes.length].filter((cut) => cut <= files.length);
  const megabytes = (/** @type {number} */ cut) => files.slice(0, cut).reduce((all, one) => all + one.sizeBytes, 0) / 1e6;
  fill(cutField, cuts.map((cut) => [cut, cut === 0 ? "none: the server runs all" : `${cut} of ${found.sliceBytes.length}, ${megabytes(cut).toFixed(1)} MB`]));
  served = found;
  fillCodecs();
  fill(chooserField, [["hand", "by hand"], ["planned", files.length ? `planned: fetches ${megabytes(files.length).toFixed(1)} MB` : "planned"]]);
  showChooser();
  await choice(found);
  say(`connected to ${found.name}`, "ready");
}

/** The codecs that the chosen cut may use. */
function fillCodecs() {
  if (served === null) return;
  const images = cut() === 0 && served.codecs.includes("rgb8") ? ["rgb8"] : [];
  const known = [...images, ...Object.keys(CODECS), ...codecsAt(served.calibration, cut())].filter((codec) => served?.codecs.includes(codec));
  fill(codecField, known.map((codec) => [codec, codec]));
  codecField.disabled = planned() || cut() === served.sliceBytes.length; // with all slices here nothing is sent
}

/** Shows who chooses cut and codec. */
function showChooser() {
  cutField.disabled = planned();
  element("why").hidden = !planned();
  element("why").textContent = "";
  fillCodecs();
}

/**
 * What is done with the next image.
 * @param {Served} model
 * @returns {Promise<import("./src/planner.js").Choice>}
 */
async function choice(model) {
  if (!planned()) {
    plan = null;
    return { cut: cut(), codec: String(codecField.value) };
  }
  if (plan === null || slices.place !== placeField.value) {
    plan = null;
    await slices.need(asker.server, model, model.sliceBytes.length, placeField.value);
    say("measuring slices, link and server", "busy");
    const begun = new Plan(model, (await slices.head?.rehearse()) ?? [], asker);
    await begun.join();
    plan = begun;
  }
  const found = plan.decide();
  cutField.value = String(found.cut);
  fillCodecs();
  codecField.value = found.codec;
  element("why").textContent = plan.why;
  return found;
}

/** Plans at once where the page does; while the camera runs, its next frame does. */
function settle() {
  attempt(async () => {
    if (served === null) return;
    await choice(served);
    say(`connected to ${served.name}`, "ready");
  });
}

/**
 * One image through head and tail; shows what comes of it.
 * @param {Image} image
 * @param {boolean} [again] whether it is sent once more when the server has other weights or tables than were described
 */
async function ask(image, again = true) {
  if (served === null) throw new ConfigError("not connected; connect to the server first");
  const model = served;
  const chosen = await choice(model);
  await slices.need(asker.server, model, chosen.cut, placeField.value);
  const calibrated = await tables.need(asker.server, model, chosen);
  say("working", "busy");
  try {
    const outcome = await asker.infer(image, chosen, model, { head: slices.head, calibrated, wantsLoad: plan !== null });
    plan?.learn(chosen, outcome);
    show(outcome, model.labels, image);
  } catch (thrown) {
    if (!(thrown instanceof Refused && ["stale", "unknown_model"].includes(thrown.code))) throw thrown;
    await chooseModel();
    if (thrown.code === "stale" && again) return ask(image, false);
    throw thrown;
  }
  await plan?.keepUp();
}

/**
 * @param {import("./page/infer.js").Outcome} outcome
 * @param {readonly string[]} labels
 * @param {Image} image what was asked about
 */
function show({ logits, phases, sent }, labels, image) {
  const likely = softmax(logits);
  const best = topClasses(logits, SHOWN_CLASSES).map(([index]) => ({ name: labels[index] || `class ${index}`, share: likely[index] }));
  label.textContent = `${best[0].name}, ${percent(best[0].share)}`;
  label.hidden = false;
  classes.replaceChildren(
    ...best.map(({ name, share }) => {
      const row = document.createElement("li");
      const [text, score, meter] = ["span", "span", "meter"].map((tag) => document.createElement(tag));
      [text.className, score.className] = ["name", "score"];
      [text.textContent, text.title, score.textContent] = [name, name, percent(share)];
      /** @type {HTMLMeterElement} */ (meter).value = share;
      row.append(text, score, meter);
      return row;
    }),
  );
  for (const [phase, ms] of Object.entries(phases)) element(`time-${phase}`).textContent = `${ms.toFixed(1)} ms`;
  element("time-total").textContent = `${Object.values(phases).reduce((all, one) => all + one, 0).toFixed(1)} ms`;
  element("sent").textContent = sent === null ? "nothing" : `${(sent.sizeBytes / 1e3).toFixed(1)} kB`;
  element("rows").textContent = sent === null ? "all here" : `${sent.reply.timings.rowsPerStep.join(", ")} rows`;
  chart.add(phases);
  say(`connected to ${modelField.value}`, "ready");
  document.dispatchEvent(new CustomEvent("answered", { detail: { image, logits, sent } })); // for pages around this one, and tests
}

/** Reads, shows and asks about a file. */
async function openFile(/** @type {Blob | undefined} */ file) {
  if (!file) return;
  stopCamera();
  if (served?.preprocessing?.exifOrientation === false && file.type === "image/jpeg") {
    throw new ConfigError("this model takes images as they lie in the file, and the browser turns them; give a PNG file");
  }
  const bitmap = await decode(file);
  last = pixelsOf(bitmap, bitmap.width, bitmap.height);
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  stage(canvas);
  await ask(last);
}

/** One frame after another, each when the one before it is answered: none waits, none is old. */
async function watch() {
  cameraButton.setAttribute("aria-pressed", "true");
  cameraButton.textContent = "Stop the camera";
  stage(video);
  while (camera.on) {
    const frame = camera.frame();
    if (frame !== null) {
      last = frame;
      await ask(frame);
    }
    await new Promise(requestAnimationFrame); // a hidden page stops here
  }
}

function stopCamera() {
  camera.stop();
  cameraButton.setAttribute("aria-pressed", "false");
  cameraButton.textContent = "Start the camera";
}

/** Shows one of the two, and takes away what stood there before. */
function stage(/** @type {HTMLElement} */ shownOne) {
  for (const one of [canvas, video]) one.hidden = one !== shownOne;
  picture.classList.remove("empty");
  [hint.hidden, label.hidden, againButton.disabled] = [true, true, false];
}

/**
 * What a person started: one at a time, and its errors are shown.
 * @param {() => Promise<void>} work
 */
async function attempt(work) {
  if (busy) return;
  busy = true;
  error.hidden = true;
  try {
    await work();
  } catch (thrown) {
    stopCamera();
    error.textContent = thrown instanceof HeadTailError ? thrown.message : `${thrown}`;
    error.hidden = false;
    say(served === null ? "not connected" : `connected to ${served.name}`, served === null ? "" : "ready");
    if (!(thrown instanceof HeadTailError)) console.error(thrown);
  } finally {
    busy = false;
  }
}

/**
 * @param {string} what
 * @param {number | null} share of it that is there; null: nothing is fetched
 */
function showFetched(what, share) {
  if (share !== null) say(`loading ${what}`, "busy");
  loading.hidden = share === null;
  loading.value = share ?? 0;
}

/**
 * @param {string} text
 * @param {"" | "ready" | "busy"} kind
 */
function say(text, kind) {
  status.textContent = text;
  status.className = kind;
}

/**
 * @param {HTMLSelectElement} select
 * @param {(string | number)[][]} options value and text of each
 */
function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(String(text), String(value))));
  if (options.some(([value]) => String(value) === before)) select.value = before;
  select.disabled = options.length === 0;
}

function cut() {
  return Number(cutField.value);
}

/** @param {number} share */
function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function planned() {
  return chooserField.value === "planned";
}

element("settings").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  attempt(connect);
});
modelField.addEventListener("change", () => attempt(chooseModel));
chooserField.addEventListener("change", () => (showChooser(), settle()));
placeField.addEventListener("change", settle);
cutField.addEventListener("change", fillCodecs);
fileField.addEventListener("change", () => attempt(() => openFile(fileField.files[0])));
againButton.addEventListener("click", () => attempt(async () => void (last && (await ask(last)))));
cameraButton.addEventListener("click", () => (camera.on ? stopCamera() : attempt(async () => (await camera.start(), await watch()))));
for (const name of ["dragover", "dragleave", "drop"]) {
  picture.addEventListener(name, (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    picture.classList.toggle("over", name === "dragover");
    if (name === "drop") attempt(() => openFile(event.dataTransfer?.files[0]));
  });
}

element("where").hidden = !("gpu" in navigator);

// A token may come in the address, after the #, which browsers do not send; it leaves the address bar at once.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given !== null) {
  tokenField.value = given;
  history.replaceState(null, "", location.pathname + location.search);
}
attempt(connect);
