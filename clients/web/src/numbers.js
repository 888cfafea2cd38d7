/** Arithmetic as numpy and Python have it, where JavaScript's own differs. */

import { ConfigError, shown } from "./errors.js";

/**
 * To the nearest whole number, ties to even: Python's `round`, numpy's `rint`.
 * @param {number} x of magnitude below 2^52
 * @returns {number}
 */
export function roundHalfEven(x) {
  const up = Math.round(x); // ties go up
  return up - x === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

/**
 * The product of whole numbers; 1 of none.
 * @param {readonly number[]} numbers
 * @returns {number}
 */
export function product(numbers) {
  return numbers.reduce((all, one) => all * one, 1);
}

/**
 * The bits of a float32 as an unsigned integer.
 * @param {number} value
 * @returns {number}
 */
export function floatBits(value) {
  FLOAT[0] = value;
  return BITS[0];
}

/**
 * The float32 that has these bits.
 * @param {number} bits
 * @returns {number}
 */
export function bitsFloat(bits) {
  BITS[0] = bits;
  return FLOAT[0];
}

const FLOAT = new Float32Array(1);
const BITS = new Uint32Array(FLOAT.buffer);

// Payloads are little-endian and are written by typed arrays, whose order is the machine's.
if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) {
  throw new ConfigError(`byte order ${shown("big-endian")}: use a machine whose byte order is little-endian`);
}
