/** One application by HTTP: what it serves, the files of a head, and answers. */

import { calibrationOf } from "../transform/calibration.js";
import { readAnswer } from "./answers.js";
import { ServerError, ShardError, shown } from "./errors.js";
import { sha256Of } from "./head.js";
import { sendingOf } from "./oip.js";
import { parsePreprocessing } from "./preprocess.js";

/**
 * What a device learns of a model; slicer/core/protocol/messages.py says more.
 * @typedef {object} Served
 * @property {string} name
 * @property {string} manifest digest that every request carries
 * @property {readonly (readonly number[])[]} shapes of the activation at the cuts 0..n
 * @property {readonly number[]} channelAxes of these
 * @property {readonly number[]} sliceBytes weights of each slice
 * @property {readonly number[]} entries cuts that the server takes
 * @property {readonly string[]} codecs
 * @property {readonly string[]} labels
 * @property {import("./preprocess.js").Preprocessing | null} preprocessing null: the server cannot say it
 * @property {string} onnx digest of the index of its ONNX files; empty: it has none
 * @property {import("../transform/calibration.js").Calibration | null} calibration which tables there are; null: none
 * @property {readonly import("./planner.js").Measured[]} calibrated what calibration found of codecs at cuts, for the planner
 */

/** What the server hands out of a file at once. */
const PIECE_BYTES = 4 << 20;

/** Calls may overlap. */
export class Server {
  /**
   * @param {string | URL} base address of the application
   * @param {string} [token] what the server wants as bearer token
   * @param {typeof fetch} [ask]
   */
  constructor(base, token = "", ask = (...given) => fetch(...given)) {
    this.base = String(base).replace(/\/+$/, "");
    this.token = token;
    this.ask = ask;
  }

  /**
   * Names of the models that the server has now.
   * @returns {Promise<string[]>}
   */
  async models() {
    const found = await this.#json("/v2/models");
    if (!Array.isArray(found)) throw this.#foreign("/v2/models", found);
    return found.map((/** @type {any} */ one) => String(one.name));
  }

  /**
   * @param {string} model
   * @returns {Promise<Served>}
   * @throws {ShardError} what the server says of calibration is damaged, or of other weights
   */
  async describe(model) {
    const told = await this.#json(`/describe?model=${encodeURIComponent(model)}`);
    try {
      const manifest = JSON.parse(told.manifest_json);
      const calibration = told.calibration_json ? calibrationOf(told.calibration_json, told.manifest) : null;
      return {
        name: told.name,
        manifest: told.manifest,
        shapes: manifest.shapes,
        channelAxes: manifest.channel_axes,
        sliceBytes: manifest.shards.map((/** @type {any} */ shard) => shard.size_bytes),
        entries: told.entries,
        codecs: told.codecs,
        labels: told.labels ?? [],
        preprocessing: told.preprocessing_json ? parsePreprocessing(told.preprocessing_json) : null,
        onnx: told.onnx ?? "",
        calibration,
        calibrated: calibration?.measured ?? [],
      };
    } catch (error) {
      if (error instanceof TypeError || error instanceof SyntaxError) throw this.#foreign("/describe", told);
      throw error;
    }
  }

  /**
   * The slices of a model as ONNX files, S1 first; none where the server has none.
   * @param {Served} served
   * @param {boolean} [int8] those with weights of 8 bits, where there are
   * @returns {Promise<import("./head.js").HeadSlice[]>}
   * @throws {ShardError} they belong to other weights than those that are served, or the index is not the one described
   */
  async headSlices(served, int8 = false) {
    if (!served.onnx) return [];
    const path = `/shard/${encodeURIComponent(served.onnx)}?offset=0&length=${PIECE_BYTES}`;
    const bytes = new Uint8Array(await (await this.#get(path)).arrayBuffer());
    const sha256 = await sha256Of(bytes);
    if (sha256 !== null && sha256 !== served.onnx) {
      throw new ShardError(`the index of ONNX files has the digest ${sha256.slice(0, 12)}, not ${served.onnx.slice(0, 12)}: load the page again`);
    }
    const index = parsed(bytes);
    if (index?.format !== 1 || !Array.isArray(index.slices)) throw this.#foreign("/shard", index);
    if (index.manifest !== served.manifest) {
      throw new ShardError(`ONNX files of manifest ${shown(index.manifest)}; the server serves ${served.manifest}: load the page again`);
    }
    return index.slices.map((/** @type {any} */ slice) => {
      const file = int8 && slice.int8 ? slice.int8 : slice.fp32;
      return {
        sha256: file.sha256,
        sizeBytes: file.size_bytes,
        input: slice.input,
        output: slice.output,
        inputShape: slice.input_shape,
        outputShape: slice.output_shape,
      };
    });
  }

  /**
   * A file, piece by piece.
   * @param {string} route what hands out files by their digest
   * @param {{sha256: string, sizeBytes: number}} file
   * @param {(bytes: number) => void} [progress] told how many bytes are there
   * @returns {Promise<Uint8Array>}
   */
  async file(route, { sha256, sizeBytes }, progress = () => {}) {
    const whole = new Uint8Array(sizeBytes);
    for (let at = 0; at < sizeBytes; ) {
      const response = await this.#get(`${route}/${sha256}?offset=${at}&length=${Math.min(PIECE_BYTES, sizeBytes - at)}`);
      const piece = new Uint8Array(await response.arrayBuffer());
      if (piece.length === 0 || piece.length > sizeBytes - at) {
        throw new ShardError(`${piece.length} bytes at ${at} of a file of ${sizeBytes}; the server's files changed: load the page again`);
      }
      whole.set(piece, at);
      at += piece.length;
      progress(at);
    }
    return whole;
  }

  /**
   * The answer to one request.
   * @param {import("./oip.js").Request} request
   * @param {AbortSignal} [signal] given up
   * @returns {Promise<import("./replies.js").Reply | import("./replies.js").Refusal>} a refusal has a `code`
   */
  async send(request, signal) {
    const { path, headers, body } = sendingOf([request], this.token);
    const sent = { method: "POST", headers, body: /** @type {any} */ (body), signal };
    const response = await this.#reached(path, sent);
    return readAnswer({ status: response.status, headers: response.headers, body: new Uint8Array(await response.arrayBuffer()) }, request);
  }

  /**
   * @param {string} path
   * @returns {Promise<any>}
   */
  async #json(path) {
    const response = await this.#get(path);
    try {
      return await response.json();
    } catch {
      throw this.#foreign(path, "no JSON");
    }
  }

  /** @param {string} path */
  async #get(path) {
    const response = await this.#reached(path, this.#options());
    if (response.ok) return response;
    const said = await response.json().catch(() => ({}));
    throw new ServerError(`the server answered ${response.status} to ${path}: ${said.error ?? response.statusText}`);
  }

  /** @returns {RequestInit} */
  #options() {
    return { headers: this.token ? { Authorization: `Bearer ${this.token}` } : {} };
  }

  /**
   * @param {string} path
   * @param {RequestInit} sent
   */
  async #reached(path, sent) {
    try {
      // No redirect is followed: the server sends none, and the token is for nobody else.
      return await this.ask(this.base + path, { ...sent, redirect: "error" });
    } catch (error) {
      if (sent.signal?.aborted) throw error;
      throw new ServerError(`${this.base} cannot be reached (${error}); is the server up?`);
    }
  }

  /**
   * @param {string} path
   * @param {unknown} found
   */
  #foreign(path, found) {
    return new ServerError(`${this.base} is no HeadTail server of this release: ${shown(found)} to ${path}`);
  }
}

/**
 * @param {Uint8Array} bytes
 * @returns {any} null: it is no JSON
 */
function parsed(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}
