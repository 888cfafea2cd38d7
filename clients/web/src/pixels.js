/** Decoded images: 8 bits a channel, interleaved. Colours and sizes as slicer/core/images/pixels.py has them. */

import { ImageError } from "./errors.js";

/**
 * @typedef {object} Image
 * @property {number} width
 * @property {number} height
 * @property {1 | 3} channels
 * @property {Uint8Array} data [height, width, channels]
 */

/** No image of more pixels is taken. */
export const MAX_PIXELS = 50_000_000;

/** An image may be so many times as long as it is wide: its shorter edge is scaled to the model's size. */
export const MAX_ASPECT = 32;

/**
 * The image that a canvas gives, its transparency dropped as PIL drops it.
 * @param {{width: number, height: number, data: Uint8ClampedArray | Uint8Array}} pixels ImageData, or what looks like it
 * @returns {Image}
 */
export function fromRgba({ width, height, data }) {
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return { width, height, channels: 3, data: rgb };
}

/**
 * In so many channels; of one: luminance (ITU-R 601-2) by PIL's integer weights.
 * @param {Image} image
 * @param {1 | 3} channels
 * @returns {Image} the same one if nothing is to be done
 */
export function inChannels(image, channels) {
  if (image.channels === channels) return image;
  const { width, height, data } = image;
  const found = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    if (channels === 1) {
      found[i] = (data[3 * i] * 19595 + data[3 * i + 1] * 38470 + data[3 * i + 2] * 7471 + 0x8000) >> 16;
    } else {
      found.fill(data[i], 3 * i, 3 * i + 3);
    }
  }
  return { width, height, channels, data: found };
}

/**
 * Refuse an image by its size.
 * @param {number} width
 * @param {number} height
 * @throws {ImageError} it is empty, of more than MAX_PIXELS, or longer than MAX_ASPECT times its width
 */
export function checkSize(width, height) {
  const size = `an image of ${width}x${height} pixels`;
  if (!(width >= 1 && height >= 1)) throw new ImageError(`${size} is empty; send one with pixels`);
  if (width * height > MAX_PIXELS) throw new ImageError(`${size}; at most ${MAX_PIXELS} are decoded: make it smaller`);
  if (Math.max(width, height) > MAX_ASPECT * Math.min(width, height)) {
    throw new ImageError(`${size}; the longer edge may be ${MAX_ASPECT} times the shorter one: crop it`);
  }
}
