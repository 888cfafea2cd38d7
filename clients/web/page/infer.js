/** One image's way through head and server, and how long each part of it took. */

import { IMAGE_CODECS, encode, encodeRgb8 } from "../src/codecs.js";
import { HeadTailError } from "../src/errors.js";
import { Head } from "../src/head.js";
import { crop, preprocess } from "../src/preprocess.js";

/**
 * @typedef {import("../src/planner.js").Choice} Choice
 * @typedef {import("../src/server.js").Served} Served
 *
 * @typedef {object} Sent what a request that was answered says of link and server
 * @property {number} sizeBytes of its payload
 * @property {number} tookMs from sending to the answer
 * @property {import("../src/replies.js").Reply} reply
 *
 * @typedef {object} Outcome
 * @property {Float32Array} logits
 * @property {import("./chart.js").Phases} phases
 * @property {readonly number[]} slicesMs of each slice that ran here
 * @property {Sent | null} sent null: all slices ran here
 */

const DEADLINE_MS = 30_000;
const NO_HEAD = new Head(/** @type {any} */ (null), [], []);

/** The server did not run a request, and says why. */
export class Refused extends HeadTailError {
  /** @param {import("../src/replies.js").Refusal} refusal */
  constructor({ code, message }) {
    super(`refused (${code}): ${message}`);
    this.code = code;
  }
}

/** Sends requests under the name of this tab. One image at a time. */
export class Asker {
  /** @param {import("../src/server.js").Server} server */
  constructor(server) {
    this.server = server;
    this.name = `web-${token(6)}`;
    this.asked = 0;
  }

  /**
   * The classes of one image.
   * @param {import("../src/pixels.js").Image} image
   * @param {Choice} choice
   * @param {Served} served
   * @param {object} means
   * @param {Head | null} means.head null: none is loaded, which will do at cut 0
   * @param {import("../src/codecs.js").Calibrated | null} [means.calibrated] of the cut; codecs with tables need it
   * @param {boolean} [means.wantsLoad] the answer shall say how busy the server is
   * @returns {Promise<Outcome>}
   * @throws {Refused} the server did not run it
   */
  async infer(image, { cut, codec }, served, { head, calibrated = null, wantsLoad = false }) {
    const how = /** @type {import("../src/preprocess.js").Preprocessing} */ (served.preprocessing);
    const marks = [performance.now()];
    const raw = cut === 0 && codec in IMAGE_CODECS ? encodeRgb8(crop(image, how)) : null;
    const input = raw === null ? preprocess(image, how) : null;
    marks.push(performance.now());
    const computed = input === null ? null : await (head ?? NO_HEAD).run(input, how.shape, cut);
    marks.push(performance.now());
    const slicesMs = computed?.slicesMs ?? [];
    if (computed !== null && cut === served.sliceBytes.length) {
      const [preprocessMs, headMs] = gaps(marks);
      return { logits: computed.values, phases: { preprocess: preprocessMs, head: headMs, encode: 0, network: 0, server: 0 }, slicesMs, sent: null };
    }
    const { values, shape } = /** @type {import("../src/head.js").Computed} */ (computed ?? { shape: how.shape });
    const payload = raw ?? encode(codec, values, shape, served.channelAxes[cut], calibrated);
    marks.push(performance.now());
    const sent = await this.send(served, { cut, codec }, shape, payload, { wantsLoad });
    const [preprocessMs, headMs, encodeMs] = gaps(marks);
    const serverMs = Math.min(sent.reply.timings.totalMs, sent.tookMs);
    const phases = { preprocess: preprocessMs, head: headMs, encode: encodeMs, network: sent.tookMs - serverMs, server: serverMs };
    return { logits: sent.reply.logits, phases, slicesMs, sent };
  }

  /**
   * One request, and how long its answer took.
   * @param {Served} served
   * @param {Choice} choice
   * @param {readonly number[]} shape of what was encoded
   * @param {Uint8Array} payload
   * @param {{wantsLoad?: boolean, patienceMs?: number}} [options]
   * @returns {Promise<Sent>}
   * @throws {Refused} the server did not run it
   */
  async send(served, { cut, codec }, shape, payload, { wantsLoad = false, patienceMs = DEADLINE_MS } = {}) {
    const request = {
      id: `${this.name}/${++this.asked}`,
      model: served.name,
      manifest: served.manifest,
      cut,
      codec,
      shape,
      payload,
      deadlineMs: patienceMs,
      wantsLoad,
      key: token(16),
    };
    const began = performance.now();
    const answer = await this.server.send(request, AbortSignal.timeout(patienceMs));
    const tookMs = performance.now() - began;
    if ("code" in answer) throw new Refused(answer);
    return { sizeBytes: payload.length, tookMs, reply: answer };
  }
}

/** @param {number[]} marks */
function gaps(marks) {
  return marks.slice(1).map((mark, at) => mark - marks[at]);
}

/** Letters that nobody guesses. `crypto.randomUUID` is missing where a page came by http. */
function token(/** @type {number} */ bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
