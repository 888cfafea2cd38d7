/**
 * Which cut and codec this tab uses: src/planner.js reckons, this keeps what it reckons with up to date.
 *
 * A simple form of slicer/core/planning/online_planner.py. A tab has one image at a time, so nothing waits for device or
 * link. It moves whenever that pays; it does not leave moves to chance, as fleets do.
 */

import { CODECS, encode, needsTables } from "../src/codecs.js";
import { product } from "../src/numbers.js";
import { choose, estimate, estimateAll } from "../src/planner.js";
import { codecsAt } from "../transform/calibration.js";
import { LinkEstimate, median } from "./link.js";

/**
 * @typedef {import("../src/planner.js").Choice} Choice
 * @typedef {import("../src/planner.js").Estimate} Estimate
 * @typedef {import("./infer.js").Sent} Sent
 */

/** How often joining asks for the description, to learn the round trip. */
const PINGS = 5;

/** What is beside the payload in a request, bytes. */
const ENVELOPE_BYTES = 300;

/** Another choice must be better by this share and by so many ms. */
const GAIN = 0.08;
const LEAST_MS = 0.5;

/** Who computes everything here asks so often how link and server are. The next image waits for the answer, so briefly. */
const PROBE_MS = 4000;
const PATIENCE_MS = 1000;

/** Remembered values of each time, of which the median counts. */
const REMEMBERED = 9;

/** Weight of a new payload's size. */
const WEIGHT = 0.1;

const GOAL = {};

/** One model's. Calls one after another. */
export class Plan {
  /**
   * @param {import("../src/server.js").Served} served
   * @param {readonly number[]} slicesMs of each loaded slice, as rehearsed; these alone may run here
   * @param {import("./infer.js").Asker} asker sends what is asked beside the images
   * @param {() => number} [clock] ms
   */
  constructor(served, slicesMs, asker, clock = () => performance.now()) {
    this.served = served;
    this.asker = asker;
    this.clock = clock;
    this.loaded = slicesMs.length;
    this.link = new LinkEstimate();
    this.slices = served.sliceBytes.map((_, at) => slicesMs.slice(at, at + 1));
    /** @type {number[]} */
    this.preprocess = [];
    /** @type {Record<string, number[]>} */
    this.encode = {};
    this.sizeRatio = 1;
    /** @type {Record<number, number>} */
    this.waitMs = {};
    /** @type {Record<number, number>} */
    this.executionMs = {};
    this.heardMs = clock();
    /** @type {Choice | null} null: `decide` was not asked yet */
    this.present = null;
  }

  /** Learns link and server, by small messages and one activation of zeros. */
  async join() {
    for (let ping = 0; ping < PINGS; ping++) {
      const began = this.clock();
      await this.asker.server.describe(this.served.name);
      this.link.small(this.clock() - began);
    }
    await this.#probe();
  }

  /** What is to be done with the next image. */
  decide() {
    const estimates = this.#estimates();
    const best = choose(estimates, GOAL);
    if (best === null) throw new Error("no choice, although cut 0 always is one");
    const now = this.present === null ? null : this.#estimate(this.present);
    if (now === null || now.refused || now.cost - best.cost >= Math.max(GAIN * now.cost, LEAST_MS)) this.present = best.choice;
    return /** @type {Choice} */ (this.present);
  }

  /** Why the present choice was taken, in a line: what it and its rivals are expected to take. */
  get why() {
    if (this.present === null) return "";
    const whole = this.served.sliceBytes.length;
    const { cut, codec } = this.present;
    const at = (/** @type {number} */ wanted) => choose(this.#estimates().filter(({ choice }) => choice.cut === wanted), GOAL);
    const rivals = [0, whole].filter((one) => one !== cut).map((one) => ({ here: one, found: at(one) }));
    const told = rivals.flatMap(({ here, found }) => (found === null ? [] : [`${slicesHere(here, whole)} ${milliseconds(found)}`]));
    const taken = cut === whole ? "" : `, ${codec}`;
    return `${slicesHere(cut, whole)}${taken}: ${milliseconds(this.#estimate(this.present))} expected${told.length ? `; ${told.join(", ")}` : ""}`;
  }

  /**
   * An image was answered.
   * @param {Choice} choice
   * @param {import("./infer.js").Outcome} outcome
   */
  learn({ cut, codec }, { phases, slicesMs, sent }) {
    remember(this.preprocess, phases.preprocess);
    slicesMs.forEach((ms, at) => remember(this.slices[at], ms));
    if (sent === null) return;
    if (codec in CODECS || needsTables(codec)) {
      remember((this.encode[codec] ??= []), (phases.encode * 1e6) / product(this.served.shapes[cut]));
    }
    const expected = needsTables(codec) && this.served.calibrated.find((one) => one.cut === cut && one.codec === codec)?.payloadBytes;
    if (expected) this.sizeRatio += WEIGHT * (sent.sizeBytes / expected - this.sizeRatio); // of the others sizes are exact
    this.#heard(cut, sent);
  }

  /** To be called between images: who sends nothing hears nothing, and asks now and then. */
  async keepUp() {
    if (this.present?.cut !== this.served.sliceBytes.length || this.clock() - this.heardMs < PROBE_MS) return;
    this.heardMs = this.clock();
    await this.#probe(PATIENCE_MS).catch(() => {}); // who runs all slices goes on without a server
  }

  /**
   * The fewest bytes that the server takes, with zeros.
   * @param {number} [patienceMs]
   */
  async #probe(patienceMs) {
    const { served } = this;
    const [smallest] = this.#estimates()
      .filter(({ choice, refused }) => !refused && choice.cut < served.sliceBytes.length && choice.codec in CODECS)
      .sort((a, b) => a.payloadBytes - b.payloadBytes);
    if (smallest === undefined) return; // the server takes images only
    const { cut, codec } = smallest.choice;
    const shape = served.shapes[cut];
    const payload = encode(codec, new Float32Array(product(shape)), shape, served.channelAxes[cut]);
    this.#heard(cut, await this.asker.send(served, smallest.choice, shape, payload, { wantsLoad: true, patienceMs }));
  }

  /**
   * @param {number} cut
   * @param {Sent} sent
   */
  #heard(cut, { sizeBytes, tookMs, reply: { timings, load } }) {
    this.heardMs = this.clock();
    this.link.answered(this.heardMs, sizeBytes + ENVELOPE_BYTES, tookMs - timings.totalMs);
    const left = (/** @type {number} */ entry) => this.served.sliceBytes.length - entry;
    // A server that says nothing of its other entries: execution in proportion to the slices that are left.
    const told = load.length
      ? load
      : this.served.entries.map((entry) => [entry, timings.admissionMs + timings.queueMs, (timings.executionMs * left(entry)) / left(cut)]);
    for (const [entry, waitMs, executionMs] of told) [this.waitMs[entry], this.executionMs[entry]] = [waitMs, executionMs];
  }

  /** Everything that may run here. */
  #estimates() {
    const estimates = estimateAll(this.served, this.#device, this.link.view, this.#server, GOAL);
    return estimates.filter(({ choice: { cut, codec } }) => cut <= this.loaded && this.#may(cut, codec));
  }

  /**
   * @param {number} cut
   * @param {string} codec
   */
  #may(cut, codec) {
    return codec in CODECS || codec === "rgb8" || codecsAt(this.served.calibration, cut).includes(codec);
  }

  /**
   * @param {Choice} choice
   * @returns {Estimate}
   */
  #estimate(choice) {
    return estimate(this.served, choice, this.#device, this.link.view, this.#server, GOAL);
  }

  get #device() {
    return {
      slicesMs: this.slices.map((seen) => (seen.length ? median(seen) : 0)),
      preprocessMs: this.preprocess.length ? median(this.preprocess) : 0,
      encodeNs: Object.fromEntries(Object.entries(this.encode).map(([codec, seen]) => [codec, median(seen)])),
      sizeRatio: this.sizeRatio,
    };
  }

  get #server() {
    return { waitMs: this.waitMs, executionMs: this.executionMs };
  }
}

/**
 * @param {number[]} seen
 * @param {number} value
 */
function remember(seen, value) {
  seen.push(value);
  if (seen.length > REMEMBERED) seen.shift();
}

/**
 * @param {number} cut
 * @param {number} whole
 */
function slicesHere(cut, whole) {
  if (cut === 0) return "no slice here";
  return cut === whole ? "all slices here" : `${cut} of ${whole} slices here`;
}

/** @param {Estimate} estimate */
function milliseconds({ totalMs }) {
  return `${totalMs.toFixed(totalMs < 10 ? 1 : 0)} ms`;
}
