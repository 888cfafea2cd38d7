/** The codecs of this client, by name, as slicer/core/codecs/registry.py has them. Activations are float32 only. */

import { CodecError, shown } from "./errors.js";
import { bf16Named, fp16, fp32 } from "./floats.js";
import { integerNamed } from "./integer.js";
import { product } from "./numbers.js";

/**
 * @typedef {object} Codec
 * @property {number} agreement top-1 agreement with fp32, 0 to 1, where nobody measured it for the model
 * @property {number} encodeNs time to encode, nanoseconds per value, on a device that has not measured it
 * @property {(shape: readonly number[], axis: number | null) => number} encodedBytes exact payload size
 * @property {(values: Float32Array, shape: readonly number[], axis: number | null) => Uint8Array} encode
 *
 * @typedef {object} ImageCodec
 * @property {number} agreement
 * @property {number} encodeNs
 * @property {boolean} asTaken it carries the image as it was taken; else the device brings it to the model's size first
 * @property {boolean} planned a planner may choose it
 * @property {(shape: readonly number[]) => number | null} payloadBytes of an input [C, H, W]; null: depends on the image
 *
 * @typedef {object} Calibrated what was fitted on images for one cut
 * @property {import("../transform/payload.js").BoundaryCodec} boundary
 * @property {Readonly<Record<string, number>>} qualities by codec (`transform-990`), the index of the tables' step
 */

/**
 * Codecs of activations, the exact one first.
 * @type {Readonly<Record<string, Codec>>}
 */
export const CODECS = Object.freeze({
  fp32: { agreement: 1.0, encodeNs: 0.5, ...fp32 },
  fp16: { agreement: 0.999, encodeNs: 1.5, ...fp16 },
  bf16: { agreement: 0.995, encodeNs: 2.0, ...bf16Named("bf16") },
  int8: { agreement: 0.995, encodeNs: 3.0, ...integerNamed("int8") },
  int4: { agreement: 0.95, encodeNs: 4.0, ...integerNamed("int4") },
});

/**
 * Codecs that carry an image, at cut 0 only.
 * @type {Readonly<Record<string, ImageCodec>>}
 */
export const IMAGE_CODECS = Object.freeze({
  rgb8: { agreement: 1.0, encodeNs: 1.0, asTaken: false, planned: true, payloadBytes: product },
  png: { agreement: 1.0, encodeNs: 0.0, asTaken: true, planned: true, payloadBytes: () => null },
  jpeg: { agreement: 0.98, encodeNs: 0.0, asTaken: true, planned: true, payloadBytes: () => null },
  pixels: { agreement: 1.0, encodeNs: 1.0, asTaken: true, planned: false, payloadBytes: () => null },
  ...Object.fromEntries(
    ["jpeg-50", "jpeg-75", "jpeg-90", "webp-50", "webp-75", "webp-90"].map((name) => [
      name,
      { agreement: 0.0, encodeNs: 20.0, asTaken: false, planned: true, payloadBytes: () => null },
    ]),
  ),
});

/** Nanoseconds per value that a codec with tables takes, where nobody measured it. */
export const TRANSFORM_ENCODE_NS = 60.0;

/**
 * Whether a codec is named by its calibrated fidelity, in thousandths, such as transform-995: it needs tables, which belong
 * to a cut.
 * @param {string} codec
 * @returns {boolean}
 */
export function needsTables(codec) {
  return /^transform-\d+$/.test(codec);
}

/**
 * One activation (no batch dimension) to bytes, row-major.
 * @param {string} codec
 * @param {Float32Array} values
 * @param {readonly number[]} shape
 * @param {number | null} [axis] of the channels, 0 or the last, as the manifest says; int8 and int4 need it
 * @param {Calibrated | null} [calibrated] of the activation's cut; transform-* need it
 * @returns {Uint8Array}
 * @throws {CodecError} it is not finite, or beyond what the codec holds; the codec is unknown; the shape is another
 */
export function encode(codec, values, shape, axis = null, calibrated = null) {
  if (needsTables(codec)) return encodeCalibrated(codec, values, shape, calibrated);
  const one = codecNamed(codec);
  checkShape(shape);
  if (values.length !== product(shape)) {
    throw new CodecError(`${values.length} values for an activation of shape [${shape}]; it has ${product(shape)}`);
  }
  return one.encode(values, shape, axis);
}

/**
 * @param {string} codec
 * @param {Float32Array} values
 * @param {readonly number[]} shape
 * @param {Calibrated | null} calibrated
 */
function encodeCalibrated(codec, values, shape, calibrated) {
  if (calibrated === null) {
    throw new CodecError(`codec ${shown(codec)} without the tables of its cut; give them, or use one of ${Object.keys(CODECS).join(", ")}`);
  }
  const { boundary, qualities } = calibrated;
  if (!Object.hasOwn(qualities, codec)) {
    throw new CodecError(`codec ${shown(codec)} was not calibrated for this cut; it has ${Object.keys(qualities).join(", ")}`);
  }
  return boundary.encode({ values, shape }, qualities[codec]);
}

/**
 * Exact payload size of one activation, in bytes.
 * @param {string} codec
 * @param {readonly number[]} shape
 * @param {number | null} [axis] as of `encode`; null: the last one
 * @returns {number}
 * @throws {CodecError} the codec is unknown, or the shape is none
 */
export function encodedBytes(codec, shape, axis = null) {
  const one = codecNamed(codec);
  checkShape(shape);
  return one.encodedBytes(shape, axis);
}

/**
 * The payload of codec rgb8: the model's own pixels before they become floats.
 * @param {import("./pixels.js").Image} crop of the model's size (`preprocess.crop`)
 * @returns {Uint8Array} uint8 [H, W, C], row-major
 */
export function encodeRgb8(crop) {
  return crop.data.slice();
}

/**
 * @param {string} name
 * @returns {Codec}
 */
function codecNamed(name) {
  if (!Object.hasOwn(CODECS, name)) {
    throw new CodecError(`unknown codec ${shown(name)}; this client has ${Object.keys(CODECS).join(", ")}`);
  }
  return CODECS[name];
}

/** @param {readonly number[]} shape */
function checkShape(shape) {
  if (!shape.every((size) => Number.isInteger(size) && size > 0)) {
    throw new CodecError(`shape [${shape}]: every dimension must be a whole number above 0`);
  }
}
