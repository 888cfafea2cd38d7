/**
 * int8 and int4 with a scale per channel; the bytes of slicer/core/codecs/integer.py, which says why they are so.
 *
 * The payload: scales (bf16, one per channel), then the values: int8 a byte each; int4 two to a byte, the first in the
 * lower half, each plus 8.
 */

import { CodecError } from "./errors.js";
import { bf16Named, refusal } from "./floats.js";
import { bitsFloat, floatBits, product, roundHalfEven } from "./numbers.js";

const LARGEST = 2 ** 126; // what is decoded then stays finite whatever the integers are
const SMALLEST_SCALE = 2 ** -126; // its reciprocal is finite

/**
 * @param {"int8" | "int4"} name
 */
export const integerNamed = (name) => {
  const [bits, levels] = name === "int8" ? [8, 127] : [4, 7];
  const vector = bf16Named(name); // a vector has nothing to share a scale over
  return {
    /**
     * @param {readonly number[]} shape
     * @param {number | null} axis of the channels, 0 or the last; null: the last
     */
    encodedBytes(shape, axis) {
      if (shape.length < 2) return vector.encodedBytes(shape);
      return 2 * shape[checkedAxis(shape, axis)] + Math.ceil((product(shape) * bits) / 8);
    },

    /**
     * @param {Float32Array} values
     * @param {readonly number[]} shape
     * @param {number | null} axis of the channels, as the manifest says
     */
    encode(values, shape, axis) {
      if (shape.length < 2) return vector.encode(values);
      if (axis === null) {
        throw new CodecError(`${name} without an axis of the channels for shape [${shape}]; give that of the manifest`);
      }
      const first = checkedAxis(shape, axis) === 0;
      const channels = first ? shape[0] : shape[shape.length - 1];
      const each = values.length / channels;
      const channelOf = first ? (/** @type {number} */ i) => Math.floor(i / each) : (/** @type {number} */ i) => i % channels;
      const scales = scaleBits(name, levels, values, channels, channelOf);
      const inverse = Float32Array.from(scales, (upper) => 1 / bitsFloat(upper << 16));
      const payload = new Uint8Array(this.encodedBytes(shape, axis));
      payload.set(new Uint8Array(scales.buffer));
      const start = 2 * channels;
      for (let i = 0; i < values.length; i++) {
        // No clipping: a scale is rounded up, so the largest quotient rounds to 127 (7) at most.
        const integer = roundHalfEven(Math.fround(values[i] * inverse[channelOf(i)]));
        if (bits === 8) payload[start + i] = integer;
        else payload[start + (i >> 1)] |= (integer + 8) << (4 * (i & 1));
      }
      return payload;
    },
  };
};

/**
 * The upper halves of the scales: each channel's peak over the levels, up to the next bf16.
 * @param {string} name
 * @param {number} levels
 * @param {Float32Array} values
 * @param {number} channels
 * @param {(i: number) => number} channelOf
 * @returns {Uint16Array}
 */
function scaleBits(name, levels, values, channels, channelOf) {
  const peaks = new Float32Array(channels);
  for (let i = 0; i < values.length; i++) {
    const magnitude = Math.abs(values[i]);
    if (!(magnitude <= LARGEST)) throw refusal(name, values, ` (${LARGEST.toPrecision(3)})`); // NaN as well
    const channel = channelOf(i);
    if (magnitude > peaks[channel]) peaks[channel] = magnitude;
  }
  return Uint16Array.from(
    peaks,
    (peak) => (floatBits(Math.max(Math.fround(peak / levels), SMALLEST_SCALE)) + 0xffff) >>> 16,
  );
}

/**
 * @param {readonly number[]} shape
 * @param {number | null} axis
 * @returns {number}
 */
function checkedAxis(shape, axis) {
  const last = shape.length - 1;
  if (axis === null || axis === last) return last;
  if (axis !== 0) {
    throw new CodecError(`axis ${axis} of shape [${shape}]: channels run along the first axis or the last`);
  }
  return 0;
}
