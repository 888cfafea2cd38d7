/** An image to a model's input, bit for bit as timm's evaluation transform makes it: resize, crop, normalise. */

import { ConfigError, ImageError, shown } from "./errors.js";
import { roundHalfEven } from "./numbers.js";
import { checkSize, inChannels } from "./pixels.js";
import { INTERPOLATIONS, resize } from "./resample.js";

/**
 * How an image becomes a model's input: timm's resolved data config.
 * @typedef {object} Preprocessing
 * @property {readonly [1 | 3, number, number]} shape channels, height and width of every input
 * @property {string} interpolation
 * @property {number} cropPct which share of the resized image the crop is
 * @property {"center" | "squash" | "border"} cropMode
 * @property {readonly number[]} mean of each channel, of values from 0 to 1
 * @property {readonly number[]} std
 * @property {boolean} exifOrientation whether images are turned upright before they come here
 */

const KEYS = ["format", "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "exif_orientation"];
const CROP_MODES = ["center", "squash", "border"];
const MAX_SIDE = 16384;

/**
 * The description that a server gives of a model's preprocessing, checked.
 * @param {string} text JSON: {"format": 1, "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9,
 *   "crop_mode": "center", "mean": [...], "std": [...], "exif_orientation": true}
 * @returns {Preprocessing}
 * @throws {ConfigError} it is none, or one that this client cannot follow
 */
export function parsePreprocessing(text) {
  /** @type {any} */
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new ConfigError(`preprocessing ${shown(text)} is no JSON (${error}); give what the server describes`);
  }
  check(given !== null && typeof given === "object" && !Array.isArray(given), "preprocessing", given, "an object");
  check(given.format === 1, "format", given.format, "1; newer ones need a newer page: load it again");
  for (const key of KEYS) check(Object.hasOwn(given, key), "preprocessing", given, `with ${key}`);
  const odd = Object.keys(given).filter((key) => !KEYS.includes(key));
  check(odd.length === 0, "preprocessing", odd, `without other keys than ${KEYS.join(", ")}`);
  const size = given.input_size;
  check(Array.isArray(size) && size.length === 3, "input_size", size, "channels, height and width");
  check(size[0] === 1 || size[0] === 3, "input_size", size, "of 3 channels (RGB) or 1 (grey)");
  check(size.every((/** @type {unknown} */ n) => isWhole(n, MAX_SIDE)), "input_size", size, `of numbers from 1 to ${MAX_SIDE}`);
  check(INTERPOLATIONS.includes(given.interpolation), "interpolation", given.interpolation, INTERPOLATIONS.join(", "));
  const scaled = isPositive(given.crop_pct) ? size.slice(1).map((/** @type {number} */ side) => side / given.crop_pct) : [0];
  const sane = scaled.every((/** @type {number} */ side) => side >= 1 && side < MAX_SIDE + 1);
  check(sane, "crop_pct", given.crop_pct, `a number above 0 that scales ${shown(size)} to sides from 1 to ${MAX_SIDE}`);
  check(CROP_MODES.includes(given.crop_mode), "crop_mode", given.crop_mode, CROP_MODES.join(", "));
  for (const key of ["mean", "std"]) {
    const numbers = Array.isArray(given[key]) && given[key].length === size[0] && given[key].every(Number.isFinite);
    check(numbers, key, given[key], `${size[0]} numbers, one per channel`);
  }
  const extremes = [0, 255].flatMap((value) =>
    given.mean.map((/** @type {number} */ mean, /** @type {number} */ at) => normalised(value, mean, given.std[at])),
  );
  check(extremes.every(Number.isFinite), "std", given.std, "of numbers that are not 0, nor so small that pixels become infinite");
  check(typeof given.exif_orientation === "boolean", "exif_orientation", given.exif_orientation, "true or false");
  return Object.freeze({
    shape: size,
    interpolation: given.interpolation,
    cropPct: given.crop_pct,
    cropMode: given.crop_mode,
    mean: given.mean,
    std: given.std,
    exifOrientation: given.exif_orientation,
  });
}

/**
 * The image as a model's input.
 * @param {import("./pixels.js").Image} image upright already where `exifOrientation` says so
 * @param {Preprocessing} how
 * @returns {Float32Array} of `how.shape`
 * @throws {ImageError} its size is out of bounds
 */
export function preprocess(image, how) {
  return normalise(crop(image, how), how);
}

/**
 * The first part: resized and cropped, still 8 bits. What codec rgb8 sends.
 * @param {import("./pixels.js").Image} image
 * @param {Preprocessing} how
 * @returns {import("./pixels.js").Image} of the model's size and channels
 * @throws {ImageError} its size is out of bounds
 */
export function crop(image, how) {
  checkSize(image.width, image.height);
  const [channels, height, width] = how.shape;
  const plain = inChannels(image, channels);
  const [resizedHeight, resizedWidth] = resizedSize(plain, how);
  const resized = resize(plain, resizedWidth, resizedHeight, how.interpolation);
  const fill = how.mean.map((mean) => (how.cropMode === "border" ? roundHalfEven(255 * mean) : 0));
  return centre(resized, width, height, fill);
}

/**
 * The rest: to floats from 0 to 1, less the mean, over the standard deviation; each step rounded to float32.
 * @param {import("./pixels.js").Image} image of the model's size and channels
 * @param {Preprocessing} how
 * @returns {Float32Array} [channels, height, width]
 */
export function normalise(image, how) {
  const [channels, height, width] = how.shape;
  if (image.channels !== channels || image.height !== height || image.width !== width) {
    throw new ImageError(
      `the image has ${image.channels}x${image.height}x${image.width} (channels, height, width), the model takes ` +
        `${how.shape.join("x")}; crop it first`,
    );
  }
  const count = height * width;
  const found = new Float32Array(channels * count);
  for (let channel = 0; channel < channels; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, value) => normalised(value, how.mean[channel], how.std[channel]));
    for (let i = 0; i < count; i++) found[channel * count + i] = table[image.data[i * channels + channel]];
  }
  return found;
}

/**
 * One pixel's value as float32.
 * @param {number} value 0 to 255
 * @param {number} mean
 * @param {number} std
 */
function normalised(value, mean, std) {
  return Math.fround(Math.fround(Math.fround(value / 255) - Math.fround(mean)) / Math.fround(std));
}

/**
 * Height and width before the crop.
 * @param {import("./pixels.js").Image} image
 * @param {Preprocessing} how
 * @returns {[number, number]}
 */
function resizedSize({ height, width }, how) {
  const scaled = [how.shape[1], how.shape[2]].map((side) => Math.floor(side / how.cropPct));
  if (how.cropMode === "squash") return [scaled[0], scaled[1]];
  if (how.cropMode === "center" && scaled[0] === scaled[1]) {
    // torchvision's way: the shorter edge becomes this long, the longer one is cut off to a whole number.
    return height < width
      ? [scaled[0], Math.trunc((scaled[0] * width) / height)]
      : [Math.trunc((scaled[0] * height) / width), scaled[0]];
  }
  // timm's way: one ratio for both, rounded.
  const ratios = [height / scaled[0], width / scaled[1]];
  const ratio = how.cropMode === "border" ? Math.max(...ratios) : Math.min(...ratios);
  return [roundHalfEven(height / ratio), roundHalfEven(width / ratio)];
}

/**
 * The middle of an image; where it is smaller, with a border of `fill`.
 * @param {import("./pixels.js").Image} image
 * @param {number} width
 * @param {number} height
 * @param {readonly number[]} fill of each channel
 * @returns {import("./pixels.js").Image}
 */
function centre(image, width, height, fill) {
  if (image.width === width && image.height === height) return image;
  const { channels } = image;
  const left = offset(image.width, width);
  const top = offset(image.height, height);
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < data.length; i++) data[i] = fill[i % channels];
  const columns = Math.min(image.width, width);
  for (let row = 0; row < Math.min(image.height, height); row++) {
    const from = ((row + Math.max(top, 0)) * image.width + Math.max(left, 0)) * channels;
    const to = ((row + Math.max(-top, 0)) * width + Math.max(-left, 0)) * channels;
    data.set(image.data.subarray(from, from + columns * channels), to);
  }
  return { width, height, channels, data };
}

/**
 * Where the crop begins in the image; below 0: so much border stands before the image.
 * @param {number} from
 * @param {number} to
 * @returns {number}
 */
function offset(from, to) {
  return from < to ? -Math.floor((to - from) / 2) : roundHalfEven((from - to) / 2);
}

/**
 * @param {unknown} value
 * @param {number} most
 */
function isWhole(value, most) {
  return Number.isInteger(value) && Number(value) >= 1 && Number(value) <= most;
}

/** @param {unknown} value */
function isPositive(value) {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}

/**
 * @param {boolean} holds
 * @param {string} what
 * @param {unknown} value
 * @param {string} want
 */
function check(holds, what, value, want) {
  if (!holds) throw new ConfigError(`${what} is ${shown(value)}; it must be ${want}`);
}
