/**
 * What a device must hold to code the activations of one boundary; slicer/core/codecs/transform/tables.py says more. The
 * file is of the safetensors format: the header's length (uint64), the header (JSON), the arrays, all little-endian.
 */

import { ShardError, shown } from "../src/errors.js";
import { sha256Of } from "../src/head.js";
import { bitsFloat, product } from "../src/numbers.js";

/** Scales and steps are whole levels: level l is 2 ** ((l - LEVEL_OF_ONE) / 4). */
export const LEVEL_OF_ONE = 128;

/** Classes of coefficients by scale over step: class c holds those of about 2 ** ((c - CLASS_OF_ONE) / 4) steps. */
export const CLASSES = 44;
export const CLASS_OF_ONE = 24;

/** Patterns of which of four coefficients are not 0, and magnitudes above 0: 1 to 15, the last one "or more". */
export const PATTERNS = 16;
export const MAGNITUDES = 15;

const FORMAT = "headtail-transform-1";
const LAYOUTS = ["tokens", "grid", "planes"];
const MOST_HEADER_BYTES = 1 << 20;
const FREQUENCIES = 1 << 12; // sum of a table's

const KINDS = Object.freeze({ F16: Uint16Array, F32: Float32Array, U8: Uint8Array, U16: Uint16Array });

/**
 * Of one boundary. P prefix tokens, G = height * width patch tokens or places, C channels.
 * @typedef {object} Tables
 * @property {string} digest SHA-256 of the file, in hex
 * @property {readonly [number, number]} grid height and width of the patch tokens
 * @property {number} prefix how many tokens stand before them
 * @property {"tokens" | "grid" | "planes"} layout of the activation: [P + G, C], [height, width, C], [C, height, width]
 * @property {readonly number[]} shape of the activation
 * @property {Float32Array} mean [P + G, C], what is taken off before
 * @property {Float32Array} analysis [C, C], rows are the channels' transform
 * @property {Float32Array} prefixAnalysis the same for prefix tokens
 * @property {Uint8Array} levels [P * C + C * G], the scale of each coefficient, in the order in which they are computed
 * @property {Uint8Array} steps the level of each quality's step
 * @property {Uint16Array} patterns [CLASSES, PATTERNS], frequencies
 * @property {Uint16Array} magnitudes [CLASSES, MAGNITUDES], frequencies
 */

/**
 * @param {Uint8Array} file
 * @param {string} sha256 what it must have, in hex; payloads name it. Where the browser has no digests, it is believed
 * @returns {Promise<Tables>}
 * @throws {ShardError} it is another file, damaged, or of another version
 */
export async function readTables(file, sha256) {
  const found = await sha256Of(file);
  if (found !== null && found !== sha256) {
    throw new ShardError(`tables with the digest ${found.slice(0, 12)}, not ${sha256.slice(0, 12)}: load the page again`);
  }
  try {
    return checked(opened(file), sha256);
  } catch (error) {
    throw new ShardError(`the file of ${file.length} bytes holds no transform tables (${/** @type {Error} */ (error).message}); calibrate the model again`);
  }
}

/**
 * @typedef {{shape: readonly number[], values: Float32Array | Uint8Array | Uint16Array}} Held halves as float32
 *
 * @param {Uint8Array} file
 * @returns {{facts: Record<string, string>, arrays: Record<string, Held>}}
 */
function opened(file) {
  const length = file.length < 8 ? 0 : Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  if (!(length > 0 && length <= Math.min(file.length - 8, MOST_HEADER_BYTES))) throw new Error("the header's length is wrong");
  const text = new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(8, 8 + length));
  const { __metadata__: facts, ...told } = JSON.parse(text);
  if (facts.format !== FORMAT) throw new Error(`format ${shown(facts.format)} is not ${FORMAT}`);
  const body = file.subarray(8 + length);
  const arrays = Object.entries(told).map(([name, one]) => [name, held(body, name, one)]);
  return { facts, arrays: Object.fromEntries(arrays) };
}

/**
 * @param {Uint8Array} body of the file, behind its header
 * @param {string} name
 * @param {any} told of the array by the header
 * @returns {Held}
 */
function held(body, name, { dtype, shape, data_offsets: [begin, end] }) {
  if (!Object.hasOwn(KINDS, dtype)) throw new Error(`${name} is of type ${shown(dtype)}`);
  if (![...shape, begin, end].every(isCount) || begin > end || end > body.length) throw new Error(`${name} has a bad shape or place`);
  const Kind = KINDS[/** @type {keyof typeof KINDS} */ (dtype)];
  if (product(shape) * Kind.BYTES_PER_ELEMENT !== end - begin) throw new Error(`${name} has another size than its shape says`);
  const values = new Kind(body.slice(begin, end).buffer); // a copy: arrays begin anywhere in the file
  return { shape, values: dtype === "F16" ? Float32Array.from(values, halfFloat) : values };
}

/**
 * @param {ReturnType<typeof opened>} file
 * @param {string} digest
 * @returns {Tables}
 */
function checked({ facts, arrays }, digest) {
  const grid = JSON.parse(facts.grid);
  const [prefix, layout] = [Number(facts.prefix), facts.layout];
  if (!LAYOUTS.includes(layout)) throw new Error(`layout ${shown(layout)} is none of ${LAYOUTS.join(", ")}`);
  if (grid.length !== 2 || !grid.every((/** @type {any} */ size) => isCount(size) && size > 0) || !isCount(prefix) || (prefix && layout !== "tokens")) {
    throw new Error("the grid or the prefix is wrong");
  }
  const [height, width] = grid;
  const channels = arrays.analysis.shape[0];
  const tokens = prefix + height * width;
  const qualities = arrays.steps.values.length;
  if (!(qualities > 0 && qualities < 256)) throw new Error(`${qualities} qualities; 1 to 255 are possible`);
  /** @type {Record<string, number[]>} */
  const wanted = {
    mean: [tokens, channels],
    analysis: [channels, channels],
    synthesis: [channels, channels],
    prefix_analysis: [channels, channels],
    prefix_synthesis: [channels, channels],
    levels: [tokens * channels],
    steps: [qualities],
    qualities: [qualities],
    patterns: [CLASSES, PATTERNS],
    magnitudes: [CLASSES, MAGNITUDES],
    gains: [CLASSES],
  };
  const [names, ours] = [arrays, wanted].map((of) => Object.keys(of).sort().join(", "));
  if (names !== ours) throw new Error(`it has ${shown(names)}, not ${ours}`);
  for (const [name, size] of Object.entries(wanted)) {
    const { shape, values } = arrays[name];
    if (String(shape) !== String(size)) throw new Error(`${name} is [${shape}], not [${size}]`);
    if (!values.every(Number.isFinite)) throw new Error(`${name} is not finite`);
  }
  const of = (/** @type {string} */ name) => /** @type {any} */ (arrays[name].values);
  checkFrequencies("patterns", of("patterns"), PATTERNS);
  checkFrequencies("magnitudes", of("magnitudes"), MAGNITUDES);
  const shapes = { tokens: [tokens, channels], grid: [height, width, channels], planes: [channels, height, width] };
  const kind = /** @type {keyof typeof shapes} */ (layout);
  return {
    digest,
    grid,
    prefix,
    layout: kind,
    shape: shapes[kind],
    mean: of("mean"),
    analysis: of("analysis"),
    prefixAnalysis: of("prefix_analysis"),
    levels: of("levels"),
    steps: of("steps"),
    patterns: of("patterns"),
    magnitudes: of("magnitudes"),
  };
}

/**
 * @param {string} name
 * @param {Uint16Array} frequencies
 * @param {number} symbols of a table
 */
function checkFrequencies(name, frequencies, symbols) {
  for (let at = 0; at < frequencies.length; at += symbols) {
    const row = frequencies.subarray(at, at + symbols);
    if (row.includes(0) || row.reduce((all, one) => all + one, 0) !== FREQUENCIES) {
      throw new Error(`frequencies of ${name} must be above 0 and sum to ${FREQUENCIES}`);
    }
  }
}

/** @param {unknown} value */
function isCount(value) {
  return Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0;
}

/**
 * The number that a half float's bits say, exactly.
 * @param {number} bits
 * @returns {number}
 */
function halfFloat(bits) {
  const [sign, exponent, fraction] = [(bits & 0x8000) << 16, (bits >>> 10) & 0x1f, bits & 0x3ff];
  if (exponent === 0) return (sign ? -1 : 1) * fraction * 2 ** -24;
  return bitsFloat(sign | ((exponent === 0x1f ? 0xff : exponent + 112) << 23) | (fraction << 13));
}
