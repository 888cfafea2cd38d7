import assert from "node:assert/strict";
import test from "node:test";

import { encodeRgb8 } from "../src/codecs.js";
import { ConfigError, ImageError } from "../src/errors.js";
import { checkSize, fromRgba, inChannels } from "../src/pixels.js";
import { crop, normalise, parsePreprocessing, preprocess } from "../src/preprocess.js";
import { IMAGES } from "./helpers/images.js";
import { heldLike, vectors } from "./helpers/vectors.js";

const CASES = vectors("preprocess");
const GIVEN = { ...CASES[0].preprocessing, input_size: [3, 8, 12] };

for (const mode of ["center", "squash", "border"]) {
  const cases = CASES.filter((one) => one.preprocessing.crop_mode === mode);

  test(`crop mode ${mode} gives timm's pixels and inputs, bit for bit`, () => {
    const fit = cases.filter((one) => !one.error);
    assert.ok(fit.length > 40);
    for (const { image, preprocessing, crop: pixels, input } of fit) {
      const how = parsePreprocessing(JSON.stringify(preprocessing));
      const what = `${image} by ${JSON.stringify(preprocessing)}`;
      assert.deepEqual(heldLike(encodeRgb8(crop(IMAGES.get(image), how)), pixels), pixels, what);
      assert.deepEqual(heldLike(preprocess(IMAGES.get(image), how), input), input, what);
    }
  });

  test(`crop mode ${mode} refuses the images that Python refuses`, () => {
    const bad = cases.filter((one) => one.error);
    assert.ok(bad.length > 0);
    for (const { image, preprocessing, error } of bad) {
      assert.equal(error, "ImageError");
      const how = parsePreprocessing(JSON.stringify(preprocessing));
      assert.throws(() => preprocess(IMAGES.get(image), how), ImageError, `${image} by ${JSON.stringify(preprocessing)}`);
    }
  });
}

test("the description is read whole", () => {
  const how = parsePreprocessing(JSON.stringify({ ...GIVEN, exif_orientation: false }));
  assert.deepEqual(how, {
    shape: [3, 8, 12],
    interpolation: "bicubic",
    cropPct: 0.9,
    cropMode: "center",
    mean: [0.5, 0.5, 0.5],
    std: [0.5, 0.5, 0.5],
    exifOrientation: false,
  });
});

test("a description that cannot be followed is refused, with the value", () => {
  const wrong = {
    format: [2, "1", undefined],
    input_size: [[224, 224], [4, 8, 8], [3, 0, 8], [3, 8, 8.5], [3, 8, 16385], "3x8x8"],
    interpolation: ["random", "Bicubic", null, "toString"],
    crop_pct: [0, -1, "0.9", null, 8.5, 4e-4],
    crop_mode: ["centre", null],
    mean: [[0.5], [0.5, 0.5, null], 0.5],
    std: [[0.5], [0.5, 0.5, 0], [0.5, 0.5, 1e-50], [0.5, 0.5, 1e-39]],
    exif_orientation: [1, undefined],
    crop_border_pixels: [3],
  };
  for (const [key, values] of Object.entries(wrong)) {
    for (const value of values) {
      const text = JSON.stringify({ ...GIVEN, [key]: value });
      assert.throws(() => parsePreprocessing(text), (error) => error instanceof ConfigError && error.message.includes(key), text);
    }
  }
  for (const text of ["", "{", "null", "[]", "7"]) assert.throws(() => parsePreprocessing(text), ConfigError);
});

test("pixels of another size or another number of channels are not normalised", () => {
  const how = parsePreprocessing(JSON.stringify(GIVEN));
  const data = new Uint8Array(8 * 12 * 3);
  assert.equal(normalise({ width: 12, height: 8, channels: 3, data }, how).length, 8 * 12 * 3);
  assert.throws(() => normalise({ width: 8, height: 12, channels: 3, data }, how), ImageError);
  assert.throws(() => normalise({ width: 36, height: 8, channels: 1, data }, how), ImageError);
});

test("sizes have the limits that the server has", () => {
  for (const [width, height] of [[1, 1], [32, 1], [1, 32], [10_000, 5_000]]) checkSize(width, height);
  for (const [width, height] of [[0, 1], [1, 0], [33, 1], [1, 33], [10_000, 5_001], [NaN, 4]]) {
    assert.throws(() => checkSize(width, height), ImageError, `${width}x${height}`);
  }
});

test("a canvas's pixels lose their transparency, and grey ones become three equal channels", () => {
  const rgb = fromRgba({ width: 2, height: 1, data: Uint8ClampedArray.of(1, 2, 3, 0, 250, 251, 252, 9) });
  assert.deepEqual(rgb, { width: 2, height: 1, channels: 3, data: Uint8Array.of(1, 2, 3, 250, 251, 252) });
  const grey = { width: 2, height: 1, channels: 1, data: Uint8Array.of(4, 200) };
  assert.deepEqual(inChannels(grey, 3).data, Uint8Array.of(4, 4, 4, 200, 200, 200));
  assert.deepEqual(inChannels(inChannels(grey, 3), 1), grey);
});
