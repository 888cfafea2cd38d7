/**
 * Pillow's `Image.resize` for images of 8 bits a channel, byte for byte: its Resample.c, and for `nearest` the scaling
 * of its Geometry.c. Two passes, each rounded to 8 bits, so that their order counts: it is that of Pillow 13. Coefficients
 * are fixed-point numbers.
 */

import { ConfigError, ImageError, shown } from "./errors.js";

/** Bits after the point: 32, less 8 of the result and 2 for sums outside of it. */
const PRECISION_BITS = 32 - 8 - 2;

/** C's 0.54f and 0.46f. */
const HAMMING = [Math.fround(0.54), Math.fround(0.46)];

/**
 * Name -> how far a filter reaches, in pixels of the larger image, and its weight at a distance.
 * @type {Readonly<Record<string, {support: number, weight: (x: number) => number}>>}
 */
const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  hamming: { support: 1, weight: hamming },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** @type {readonly string[]} */
export const INTERPOLATIONS = ["nearest", ...Object.keys(FILTERS)];

/**
 * @param {import("./pixels.js").Image} image
 * @param {number} width of the result
 * @param {number} height of the result
 * @param {string} interpolation one of `INTERPOLATIONS`
 * @returns {import("./pixels.js").Image} the same one where the size is its own
 * @throws {ImageError} the result would be empty
 * @throws {ConfigError} the interpolation is unknown
 */
export function resize(image, width, height, interpolation) {
  if (!(width >= 1 && height >= 1)) {
    throw new ImageError(
      `an image of ${image.width}x${image.height} pixels would become ${width}x${height}; use one that is less narrow`,
    );
  }
  if (!INTERPOLATIONS.includes(interpolation)) {
    throw new ConfigError(`interpolation ${shown(interpolation)}; it must be one of ${INTERPOLATIONS.join(", ")}`);
  }
  if (width === image.width && height === image.height) return image;
  if (interpolation === "nearest") return nearest(image, width, height);
  // Before Pillow 13 the horizontal pass always came first.
  const shrunk = image.height - height;
  const verticalFirst = shrunk > 0 && shrunk > 2 * (image.width - width);
  return verticalFirst
    ? horizontal(vertical(image, height, interpolation), width, interpolation)
    : vertical(horizontal(image, width, interpolation), height, interpolation);
}

/**
 * @param {import("./pixels.js").Image} image
 * @param {number} width
 * @param {string} interpolation
 * @returns {import("./pixels.js").Image}
 */
function horizontal(image, width, interpolation) {
  const { width: from, height, channels, data } = image;
  if (width === from) return image;
  const { first, count, weights, most } = coefficients(from, width, interpolation);
  const found = new Uint8Array(width * height * channels);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const start = (y * from + first[x]) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let i = 0, at = start + channel; i < count[x]; i++, at += channels) {
          sum = (sum + Math.imul(data[at], weights[x * most + i])) | 0;
        }
        found[to++] = clip8(sum);
      }
    }
  }
  return { width, height, channels, data: found };
}

/**
 * @param {import("./pixels.js").Image} image
 * @param {number} height
 * @param {string} interpolation
 * @returns {import("./pixels.js").Image}
 */
function vertical(image, height, interpolation) {
  const { width, height: from, channels, data } = image;
  if (height === from) return image;
  const { first, count, weights, most } = coefficients(from, height, interpolation);
  const row = width * channels;
  const found = new Uint8Array(height * row);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < row; x++) {
      let sum = 1 << (PRECISION_BITS - 1);
      for (let i = 0, at = first[y] * row + x; i < count[y]; i++, at += row) {
        sum = (sum + Math.imul(data[at], weights[y * most + i])) | 0;
      }
      found[y * row + x] = clip8(sum);
    }
  }
  return { width, height, channels, data: found };
}

/**
 * Of each pixel of the result: the first one that it is made of, how many, and their weights, `most` places each.
 * @param {number} from pixels along this axis
 * @param {number} to pixels of the result
 * @param {string} interpolation
 */
function coefficients(from, to, interpolation) {
  const { support: reach, weight } = FILTERS[interpolation];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  const inverse = 1 / stretch;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Int32Array(to * most);
  const exact = new Float64Array(most);
  for (let place = 0; place < to; place++) {
    const centre = (place + 0.5) * scale;
    const begin = Math.max(Math.trunc(centre - support + 0.5), 0);
    const size = Math.min(Math.trunc(centre + support + 0.5), from) - begin;
    let total = 0;
    for (let i = 0; i < size; i++) {
      exact[i] = weight((i + begin - centre + 0.5) * inverse);
      total += exact[i];
    }
    for (let i = 0; i < size; i++) {
      const share = total === 0 ? exact[i] : exact[i] / total;
      weights[place * most + i] = Math.trunc((share < 0 ? -0.5 : 0.5) + share * 2 ** PRECISION_BITS);
    }
    first[place] = begin;
    count[place] = size;
  }
  return { first, count, weights, most };
}

/**
 * @param {import("./pixels.js").Image} image
 * @param {number} width
 * @param {number} height
 * @returns {import("./pixels.js").Image}
 */
function nearest(image, width, height) {
  const { channels, data } = image;
  const found = new Uint8Array(width * height * channels);
  const columns = places(image.width, width);
  const rows = places(image.height, height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += channels) {
      const from = (rows[y] * image.width + columns[x]) * channels;
      for (let channel = 0; channel < channels; channel++) found[to + channel] = data[from + channel];
    }
  }
  return { width, height, channels, data: found };
}

/**
 * Which pixel each one of the result is. The sum runs as Pillow's does, whose rounding it shares.
 * @param {number} from
 * @param {number} to
 * @returns {Int32Array}
 */
function places(from, to) {
  const found = new Int32Array(to);
  const step = from / to;
  for (let place = 0, at = step * 0.5; place < to; place++, at += step) found[place] = Math.trunc(at);
  return found;
}

/** @param {number} sum */
function clip8(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** @param {number} x */
function hamming(x) {
  x = Math.abs(x);
  if (x === 0) return 1;
  if (x >= 1) return 0;
  x *= Math.PI;
  return (Math.sin(x) / x) * (HAMMING[0] + HAMMING[1] * Math.cos(x));
}

/** @param {number} x */
function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** @param {number} x */
function sinc(x) {
  if (x === 0) return 1;
  x *= Math.PI;
  return Math.sin(x) / x;
}
