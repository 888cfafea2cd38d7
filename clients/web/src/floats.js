/** fp32, fp16 and bf16: each value by itself, little-endian; the bytes of slicer/core/codecs/floats.py. */

import { CodecError, NotFiniteError } from "./errors.js";
import { product } from "./numbers.js";

/**
 * The error of an activation that a codec cannot carry: it is not finite, or too large.
 * @param {string} name of the codec
 * @param {Float32Array} values
 * @param {string} [holds] for what it is too large
 * @returns {CodecError}
 */
export function refusal(name, values, holds = "") {
  if (!values.every(Number.isFinite)) {
    return new NotFiniteError("the activation holds NaN or infinity; check the image and the head's weights");
  }
  const peak = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return new CodecError(
    `the activation reaches ${peak.toPrecision(3)}, more than ${name} can hold${holds}; use fp32 for this model`,
  );
}

/** float32 as it is: 4 bytes a value, exact. */
export const fp32 = {
  /** @param {readonly number[]} shape */
  encodedBytes: (shape) => 4 * product(shape),

  /** @param {Float32Array} values */
  encode(values) {
    if (!values.every(Number.isFinite)) throw refusal("fp32", values);
    return new Uint8Array(values.slice().buffer);
  },
};

/** Half floats: 2 bytes a value, of at most 65,504; rounded to nearest, ties to even. */
export const fp16 = {
  /** @param {readonly number[]} shape */
  encodedBytes: (shape) => 2 * product(shape),

  /** @param {Float32Array} values */
  encode(values) {
    const bits = bitsOf(values);
    const halves = new Uint16Array(bits.length);
    for (let i = 0; i < bits.length; i++) {
      halves[i] = halfBits(bits[i]);
      if ((halves[i] & 0x7c00) === 0x7c00) throw refusal("fp16", values);
    }
    return new Uint8Array(halves.buffer);
  },
};

/**
 * bf16, the upper half of a float32, rounded to nearest, ties to even: 2 bytes a value.
 * @param {string} name what errors call it; int8 and int4 send vectors so
 */
export const bf16Named = (name) => ({
  /** @param {readonly number[]} shape */
  encodedBytes: (shape) => 2 * product(shape),

  /** @param {Float32Array} values */
  encode(values) {
    const bits = bitsOf(values);
    const upper = new Uint16Array(bits.length);
    for (let i = 0; i < bits.length; i++) {
      if ((bits[i] & 0x7f800000) === 0x7f800000) throw refusal(name, values);
      upper[i] = (bits[i] + ((bits[i] >>> 16) & 1) + 0x7fff) >>> 16;
      if ((upper[i] & 0x7f80) === 0x7f80) throw refusal(name, values); // rounded up to infinity
    }
    return new Uint8Array(upper.buffer);
  },
});

/**
 * The bits of a half float for those of a float32; infinity for what is too large, NaN for NaN.
 * @param {number} bits
 * @returns {number}
 */
function halfBits(bits) {
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 127;
  const fraction = bits & 0x7fffff;
  if (exponent === 128) return sign | 0x7c00 | (fraction ? 0x200 : 0);
  if (exponent > 15) return sign | 0x7c00;
  if (exponent < -25) return sign; // below half of the smallest subnormal
  // Normal: 13 bits of the fraction go. Subnormal: the hidden bit moves into the fraction, and more go.
  const normal = exponent >= -14;
  const whole = normal ? ((exponent + 15) << 23) | fraction : 0x800000 | fraction;
  const drop = normal ? 13 : -1 - exponent;
  const kept = whole >>> drop;
  const rest = whole & ((1 << drop) - 1);
  const half = 1 << (drop - 1);
  const up = rest > half || (rest === half && (kept & 1)) ? 1 : 0;
  return sign | (kept + up); // a carry goes into the exponent, as it should
}

/**
 * @param {Float32Array} values
 * @returns {Uint32Array} a view
 */
function bitsOf(values) {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}
