/** The head: slices 0..k of a model, one ONNX file each, run one behind another by onnxruntime-web. */

import { ConfigError, ShardError, shown } from "./errors.js";
import { product } from "./numbers.js";

/**
 * One slice, as the server's index of ONNX files says.
 * @typedef {object} HeadSlice
 * @property {string} sha256 of the file, in hex
 * @property {number} sizeBytes of it
 * @property {string} input name in the graph
 * @property {string} output
 * @property {readonly number[]} inputShape of one row, without the batch
 * @property {readonly number[]} outputShape
 *
 * @typedef {object} Computed
 * @property {Float32Array} values
 * @property {readonly number[]} shape without the batch
 * @property {readonly number[]} slicesMs of each slice
 *
 * @typedef {object} Session what onnxruntime-web's InferenceSession has
 * @property {(feeds: Record<string, any>) => Promise<Record<string, any>>} run
 * @property {() => Promise<void>} release
 *
 * @typedef {object} Runtime what is used of onnxruntime-web
 * @property {{create(file: Uint8Array, options?: object): Promise<Session>}} InferenceSession
 * @property {new (type: "float32", data: Float32Array, dims: readonly number[]) => any} Tensor
 */

/**
 * Fetches, checks and loads slices. Those before a failed one are given back.
 * @param {Runtime} runtime
 * @param {readonly HeadSlice[]} slices S1 first
 * @param {(slice: HeadSlice) => Promise<Uint8Array>} fetchFile the file's bytes
 * @param {object} [options] of `InferenceSession.create`
 * @returns {Promise<Head>}
 * @throws {ShardError} a file is another one than the index says
 */
export async function loadHead(runtime, slices, fetchFile, options = {}) {
  /** @type {Session[]} */
  const sessions = [];
  const head = new Head(runtime, slices, sessions);
  try {
    for (const slice of slices) {
      const file = await fetchFile(slice);
      await checkFile(file, slice);
      sessions.push(await runtime.InferenceSession.create(file, options));
    }
    return head;
  } catch (error) {
    await head.release();
    throw error;
  }
}

/** Slices that are loaded. One call of `run` at a time. */
export class Head {
  /**
   * @param {Runtime} runtime
   * @param {readonly HeadSlice[]} slices
   * @param {readonly Session[]} sessions one per slice
   */
  constructor(runtime, slices, sessions) {
    this.runtime = runtime;
    this.slices = slices;
    this.sessions = sessions;
  }

  /** How many slices there are; cuts are 0 to this. */
  get most() {
    return this.sessions.length;
  }

  /**
   * The activation at a cut.
   * @param {Float32Array} input the model's input
   * @param {readonly number[]} shape of it, without the batch
   * @param {number} cut how many slices run
   * @returns {Promise<Computed>}
   * @throws {ConfigError} there are not so many slices, or the input has another shape
   * @throws {ShardError} a slice gives another shape than the index says
   */
  async run(input, shape, cut) {
    if (!Number.isInteger(cut) || cut < 0 || cut > this.most) {
      throw new ConfigError(`cut ${shown(cut)}; this head has ${this.most} slices: give a cut from 0 to ${this.most}`);
    }
    const wanted = cut ? this.slices[0].inputShape : shape;
    if (input.length !== product(shape) || String(shape) !== String(wanted)) {
      throw new ConfigError(`an input of ${input.length} values and shape [${shape}]; the model takes [${wanted}]`);
    }
    if (cut === 0) return { values: input, shape, slicesMs: [] };
    let tensor = new this.runtime.Tensor("float32", input, [1, ...shape]);
    const slicesMs = [];
    for (const [at, slice] of this.slices.slice(0, cut).entries()) {
      const start = performance.now();
      const outputs = await this.sessions[at].run({ [slice.input]: tensor });
      slicesMs.push(performance.now() - start);
      tensor = outputs[slice.output];
      if (tensor === undefined || String(tensor.dims) !== String([1, ...slice.outputShape]) || tensor.type !== "float32") {
        throw new ShardError(
          `slice ${at + 1} gave ${tensor?.type} of shape [${tensor?.dims}] for output ${shown(slice.output)}; the index ` +
            `says float32 of [1,${slice.outputShape}]: load the page again`,
        );
      }
    }
    return { values: tensor.data, shape: this.slices[cut - 1].outputShape, slicesMs };
  }

  /**
   * What each slice takes for a black image, after a warm-up.
   * @returns {Promise<readonly number[]>}
   */
  async rehearse() {
    const shape = this.slices[0]?.inputShape ?? [];
    const black = new Float32Array(product(shape));
    await this.run(black, shape, this.most);
    return (await this.run(black, shape, this.most)).slicesMs;
  }

  /** Gives the memory back; a later `run` fails. */
  async release() {
    await Promise.all(this.sessions.map((session) => session.release()));
  }
}

/**
 * @param {Uint8Array} file
 * @param {HeadSlice} slice
 */
async function checkFile(file, slice) {
  if (file.length !== slice.sizeBytes) {
    throw new ShardError(`a slice of ${file.length} bytes; the index says ${slice.sizeBytes}: load the page again`);
  }
  const sha256 = await sha256Of(file);
  if (sha256 !== null && sha256 !== slice.sha256) { // where there are no digests, who alters a file can alter this page as well
    throw new ShardError(`a slice has the digest ${sha256.slice(0, 12)}, not ${slice.sha256.slice(0, 12)}: load the page again`);
  }
}

/**
 * SHA-256 of bytes, in hex.
 * @param {Uint8Array} bytes
 * @returns {Promise<string | null>} null: browsers have digests on https and localhost only
 */
export async function sha256Of(bytes) {
  if (globalThis.crypto?.subtle === undefined) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {any} */ (bytes)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
