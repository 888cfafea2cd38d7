/** The page: an image from a file or a camera, the head here, the tail on the server, its classes over the image. */

import { Camera, decode, pixelsOf } from "./page/camera.js";
import { Chart } from "./page/chart.js";
import { softmax, topClasses } from "./src/classes.js";
import { CODECS, IMAGE_CODECS, encode, encodeRgb8 } from "./src/codecs.js";
import { ConfigError, HeadTailError, shown } from "./src/errors.js";
import { Head, loadHead } from "./src/head.js";
import { crop, preprocess } from "./src/preprocess.js";
import { Server } from "./src/server.js";

/** @typedef {import("./src/pixels.js").Image} Image */

const SHOWN_CLASSES = 5;
const DEADLINE_MS = 30_000;
const MOST_THREADS = 4;
const APPLICATION = new URL(document.documentElement.dataset.application ?? "..", document.baseURI);

/** @type {(id: string) => any} */
const element = (id) => document.getElementById(id);

const [status, error, label, hint, classes] = ["status", "error", "label", "hint", "classes"].map(element);
const [picture, canvas, video, loading] = ["picture", "canvas", "video", "loading"].map(element);
const [tokenField, modelField, cutField, codecField] = ["token", "model", "cut", "codec"].map(element);
const [fileField, cameraButton, againButton] = ["file", "camera", "again"].map(element);

const camera = new Camera(video);
const chart = new Chart(element("chart"));
const device = `web-${token(6)}`;

/** What is connected. Replaced as a whole, so that a request in flight keeps what it began with. */
let server = new Server(APPLICATION);
/** @type {import("./src/server.js").Served | null} */
let served = null;
/** @type {Head | null} */
let head = null;
/** @type {Image | null} */
let last = null;
let asked = 0;
let busy = false;

/** Asks which models there are, with the token of the field. */
async function connect() {
  say("connecting", "busy");
  server = new Server(APPLICATION, tokenField.value.trim());
  const models = await server.models();
  fill(modelField, models.map((name) => [name, name]));
  if (!models.length) throw new ConfigError("the server has no model now; try again when it has one");
  await chooseModel();
}

/** Learns what the chosen model is, and which slices may run here. */
async function chooseModel() {
  await head?.release();
  [head, served] = [null, null];
  const found = await server.describe(modelField.value);
  if (found.preprocessing === null) {
    throw new ConfigError(`model ${shown(found.name)}: the server cannot say how its images are preprocessed; choose another one`);
  }
  if (found.shapes[found.shapes.length - 1].length !== 1) {
    throw new ConfigError(`model ${shown(found.name)} gives no classes, which is all that this page shows; choose another one`);
  }
  const slices = await server.headSlices(found);
  const cuts = [...found.entries, found.sliceBytes.length].filter((cut) => cut <= slices.length);
  const megabytes = (/** @type {number} */ cut) => slices.slice(0, cut).reduce((all, one) => all + one.sizeBytes, 0) / 1e6;
  fill(cutField, cuts.map((cut) => [cut, cut === 0 ? "none: the server runs all" : `${cut} of ${found.sliceBytes.length}, ${megabytes(cut).toFixed(1)} MB`]));
  served = found;
  fillCodecs();
  say(`connected to ${found.name}`, "ready");
}

/** The codecs that the chosen cut may use. */
function fillCodecs() {
  if (served === null) return;
  const images = cut() === 0 && served.codecs.includes("rgb8") ? ["rgb8"] : [];
  const known = [...images, ...Object.keys(CODECS)].filter((codec) => served?.codecs.includes(codec));
  fill(codecField, known.map((codec) => [codec, codec]));
  codecField.disabled = cut() === served.sliceBytes.length; // nothing is sent
}

/** The head of the chosen cut; fetched when it is needed first. */
async function headFor(/** @type {import("./src/server.js").Served} */ model) {
  if (cut() === 0 || (head !== null && head.most >= cut())) return;
  say("loading the head", "busy");
  const slices = (await server.headSlices(model)).slice(0, cut());
  const total = slices.reduce((all, one) => all + one.sizeBytes, 0);
  let before = 0;
  loading.hidden = false;
  try {
    const runtime = await onnxRuntime();
    const loaded = await loadHead(runtime, slices, async (slice) => {
      const file = await server.file("/shard", slice, (bytes) => (loading.value = (before + bytes) / total));
      before += file.length;
      return file;
    });
    await head?.release();
    head = loaded;
  } finally {
    loading.hidden = true;
  }
}

/** onnxruntime-web, from this page's own server; only who runs slices here needs it. */
async function onnxRuntime() {
  const folder = new URL("ort/", import.meta.url);
  try {
    const runtime = await import(new URL("ort.wasm.min.mjs", folder).href);
    runtime.env.wasm.wasmPaths = folder.href;
    // Browsers give threads to isolated pages only: those of https or localhost, by the headers of our server.
    runtime.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    return runtime;
  } catch (thrown) {
    throw new ConfigError(`onnxruntime-web is not at ${folder.pathname} (${thrown}); choose no slices here, or run make web on the server`);
  }
}

/**
 * One image through head and tail; shows what comes of it.
 * @param {Image} image
 */
async function ask(image) {
  if (served === null) throw new ConfigError("not connected; connect to the server first");
  const [model, codec] = [served, String(codecField.value)];
  const how = model.preprocessing;
  if (how === null) return;
  await headFor(model);
  say("working", "busy");
  const marks = [performance.now()];
  const raw = codec in IMAGE_CODECS && cut() === 0 ? encodeRgb8(crop(image, how)) : null;
  const input = raw === null ? preprocess(image, how) : null;
  marks.push(performance.now());
  const at = cut();
  const computed = input === null ? null : await (head ?? new Head(/** @type {any} */ (null), [], [])).run(input, how.shape, at);
  marks.push(performance.now());
  if (computed !== null && at === model.sliceBytes.length) {
    const [preprocessMs, headMs] = gaps(marks);
    show(computed.values, model.labels, { preprocess: preprocessMs, head: headMs, encode: 0, network: 0, server: 0 }, "nothing", "all here");
    return;
  }
  const payload = raw ?? encode(codec, /** @type {any} */ (computed).values, /** @type {any} */ (computed).shape, model.channelAxes[at]);
  marks.push(performance.now());
  const request = {
    id: `${device}/${++asked}`,
    model: model.name,
    manifest: model.manifest,
    cut: at,
    codec,
    shape: computed?.shape ?? how.shape,
    payload,
    deadlineMs: DEADLINE_MS,
    key: token(16),
  };
  const answer = await server.send(request, AbortSignal.timeout(DEADLINE_MS));
  marks.push(performance.now());
  if ("code" in answer) {
    if (answer.code === "stale" || answer.code === "unknown_model") await chooseModel();
    throw new ConfigError(`refused (${answer.code}): ${answer.message}`);
  }
  const [preprocessMs, headMs, encodeMs, answerMs] = gaps(marks);
  const serverMs = Math.min(answer.timings.totalMs, answerMs);
  const phases = { preprocess: preprocessMs, head: headMs, encode: encodeMs, network: answerMs - serverMs, server: serverMs };
  show(answer.logits, model.labels, phases, `${(payload.length / 1e3).toFixed(1)} kB`, `${answer.timings.rowsPerStep.join(", ")} rows`);
}

/**
 * @param {Float32Array} logits
 * @param {readonly string[]} labels
 * @param {import("./page/chart.js").Phases} phases
 * @param {string} sent
 * @param {string} rows
 */
function show(logits, labels, phases, sent, rows) {
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
  element("sent").textContent = sent;
  element("rows").textContent = rows;
  chart.add(phases);
  say(`connected to ${modelField.value}`, "ready");
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

/** @param {number[]} marks */
function gaps(marks) {
  return marks.slice(1).map((mark, at) => mark - marks[at]);
}

/** @param {number} share */
function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** Letters that nobody guesses. `crypto.randomUUID` is missing where a page came by http. */
function token(/** @type {number} */ bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

element("settings").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  attempt(connect);
});
modelField.addEventListener("change", () => attempt(chooseModel));
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

// A token may come in the address, after the #, which browsers do not send; it leaves the address bar at once.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given !== null) {
  tokenField.value = given;
  history.replaceState(null, "", location.pathname + location.search);
}
attempt(connect);
