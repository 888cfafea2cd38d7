/**
 * Activations to bytes by the tables of their boundary; slicer/core/codecs/transform/payload.py says how a payload is laid
 * out, and why.
 */

import { CodecError } from "../src/errors.js";
import { refusal } from "../src/floats.js";
import { roundHalfEven } from "../src/numbers.js";
import { crc32 } from "./crc32.js";
import { analysisOf } from "./linear.js";
import { encode, startsOf } from "./rans.js";
import { CLASSES, CLASS_OF_ONE, LEVEL_OF_ONE, MAGNITUDES, PATTERNS } from "./tables.js";

const VERSION = 1;
const HEADER_BYTES = 18;
const CRC_BYTES = 4;
const GROUP = 4;
const LARGEST = MAGNITUDES + 0xffff;
const SYMBOLS_PER_LANE_LOG2 = 8;
const MOST_LANES_LOG2 = 7;

/** Codes activations of one boundary. */
export class BoundaryCodec {
  /** @param {import("./tables.js").Tables} tables `tables.js` reads them */
  constructor(tables) {
    const { levels } = tables;
    this.tables = tables;
    this.analyse = analysisOf(tables);
    // Largest scales first; equal ones stay as they are.
    this.order = Uint32Array.from(levels.keys()).sort((a, b) => levels[b] - levels[a] || a - b);
    this.groups = Math.ceil(levels.length / GROUP);
    this.patternStarts = startsOf(tables.patterns, PATTERNS);
    this.magnitudeStarts = startsOf(tables.magnitudes, MAGNITUDES);
  }

  /**
   * One activation to its payload. The same integers give the bytes that Python gives. An integer may be one off Python's
   * where the coefficient lies half a step between two, to within some 10^-6 of the activation's scale.
   * @param {{values: Float32Array, shape: readonly number[]}} activation of the tables' shape, row-major
   * @param {number} quality the index of a step
   * @returns {Uint8Array}
   * @throws {CodecError} it holds NaN or infinity, or more than the tables can hold; it has another shape; there is no
   *   such quality
   */
  encode({ values, shape }, quality) {
    this.#check(values, shape, quality);
    return this.packed(this.quantised(values, quality), quality);
  }

  /**
   * Coefficients over the step, rounded, in the order of scales; the last group of four is filled up with 0.
   * @param {Float32Array} values of an activation
   * @param {number} quality
   * @returns {Int32Array}
   * @throws {CodecError} they are too large
   */
  quantised(values, quality) {
    const coefficients = this.analyse(values);
    const step = Math.fround(2 ** ((this.tables.steps[quality] - LEVEL_OF_ONE) / 4));
    const inverse = Math.fround(1 / step);
    const integers = new Int32Array(this.groups * GROUP);
    let peak = 0;
    this.order.forEach((from, at) => {
      const inSteps = Math.fround(coefficients[from] * inverse);
      peak = Math.max(peak, Math.abs(inSteps)); // NaN stays
      integers[at] = roundHalfEven(inSteps);
    });
    if (!(peak < LARGEST)) {
      throw new CodecError(
        `the activation is ${peak.toPrecision(3)} steps from the images that it was calibrated on, more than ${LARGEST} can ` +
          "be coded; use int8 for it",
      );
    }
    return integers;
  }

  /**
   * The payload of what `quantised` gave.
   * @param {Int32Array} integers
   * @param {number} quality
   * @returns {Uint8Array}
   * @throws {CodecError} too many are far beyond calibration
   */
  packed(integers, quality) {
    const { tables } = this;
    const groups = Math.ceil((integers.findLastIndex((value) => value !== 0) + 1) / GROUP);
    const coded = integers.subarray(0, groups * GROUP);
    const present = coded.reduce((count, value) => count + (value === 0 ? 0 : 1), 0);
    const lanesLog2 = lanesLog2Of(groups + present);
    const seedBytes = 2 << lanesLog2;
    const signs = new Uint8Array(Math.max(Math.ceil(present / 8), seedBytes));
    // Patterns of all groups, then all magnitudes.
    const starts = new Uint16Array(groups + present);
    const frequencies = new Uint16Array(groups + present);
    const escapes = [];
    let seen = 0;
    for (let group = 0; group < groups; group++) {
      const ofClass = this.#classOf(group, quality);
      let pattern = 0;
      for (let i = 0; i < GROUP; i++) {
        const value = coded[GROUP * group + i];
        if (value === 0) continue;
        pattern |= 1 << i;
        const magnitude = Math.abs(value);
        const symbol = ofClass * MAGNITUDES + Math.min(magnitude, MAGNITUDES) - 1;
        starts[groups + seen] = this.magnitudeStarts[symbol];
        frequencies[groups + seen] = tables.magnitudes[symbol];
        if (magnitude >= MAGNITUDES) escapes.push(magnitude - MAGNITUDES);
        if (value < 0) signs[seen >> 3] |= 1 << (seen & 7);
        seen += 1;
      }
      starts[group] = this.patternStarts[ofClass * PATTERNS + pattern];
      frequencies[group] = tables.patterns[ofClass * PATTERNS + pattern];
    }
    if (escapes.length > 0xffff) {
      throw new CodecError(`${escapes.length} coefficients are far beyond calibration; use int8 for this activation`);
    }
    // The lanes begin with the first signs.
    const words = encode(starts, frequencies, new Uint16Array(signs.slice(0, seedBytes).buffer));
    const rest = signs.subarray(seedBytes);
    const payload = new Uint8Array(HEADER_BYTES + rest.length + 2 * (escapes.length + words.length) + CRC_BYTES);
    const view = new DataView(payload.buffer);
    payload.set([VERSION, quality, lanesLog2, 0]);
    view.setUint32(4, Number.parseInt(tables.digest.slice(0, 8), 16)); // as the digest is written: the first byte first
    view.setUint32(8, groups, true);
    view.setUint32(12, words.length, true);
    view.setUint16(16, escapes.length, true);
    let at = HEADER_BYTES;
    for (const part of [rest, Uint16Array.from(escapes), words]) {
      payload.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
      at += part.byteLength;
    }
    view.setUint32(at, crc32(payload.subarray(0, at)), true);
    return payload;
  }

  /**
   * @param {number} group
   * @param {number} quality
   */
  #classOf(group, quality) {
    const found = this.tables.levels[this.order[GROUP * group]] - this.tables.steps[quality] + CLASS_OF_ONE;
    return Math.min(Math.max(found, 0), CLASSES - 1);
  }

  /**
   * @param {Float32Array} values
   * @param {readonly number[]} shape
   * @param {number} quality
   */
  #check(values, shape, quality) {
    const { tables } = this;
    if (String(shape) !== String(tables.shape) || values.length !== tables.levels.length) {
      throw new CodecError(`${values.length} values of shape [${shape}]; these tables are of activations [${tables.shape}]: take those of its cut`);
    }
    if (!Number.isInteger(quality) || quality < 0 || quality >= tables.steps.length) {
      throw new CodecError(`quality ${quality}; these tables have 0 to ${tables.steps.length - 1}`);
    }
    if (!values.every(Number.isFinite)) throw refusal("transform", values);
  }
}

/**
 * A lane costs about a byte, and lets a decoder take more symbols at once.
 * @param {number} symbols
 */
function lanesLog2Of(symbols) {
  return Math.min(31 - Math.clz32(Math.max(symbols >> SYMBOLS_PER_LANE_LOG2, 1)), MOST_LANES_LOG2);
}
