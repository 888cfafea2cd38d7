import assert from "node:assert/strict";
import test from "node:test";

import { ConfigError, ImageError } from "../src/errors.js";
import { INTERPOLATIONS, resize } from "../src/resample.js";
import { IMAGES } from "./helpers/images.js";
import { heldLike, vectors } from "./helpers/vectors.js";

const CASES = vectors("resample");

for (const interpolation of INTERPOLATIONS) {
  test(`${interpolation} gives Pillow's bytes`, () => {
    const cases = CASES.filter((one) => one.interpolation === interpolation);
    assert.ok(cases.length > 30);
    for (const { image, width, height, rgb } of cases) {
      const found = resize(IMAGES.get(image), width, height, interpolation);
      const size = [found.width, found.height, found.channels, found.data.length];
      assert.deepEqual(size, [width, height, 3, width * height * 3]);
      assert.deepEqual(heldLike(found.data, rgb), rgb, `${image} to ${width}x${height}`);
    }
  });
}

test("the image itself is left as it is", () => {
  const image = IMAGES.get("edges-23x31");
  const before = image.data.slice();
  for (const interpolation of INTERPOLATIONS) resize(image, 11, 40, interpolation);
  assert.deepEqual(image.data, before);
});

test("one channel is resized as each of three is", () => {
  const image = IMAGES.get("noise-40x27");
  const green = { ...image, channels: 1, data: image.data.filter((_, i) => i % 3 === 1) };
  for (const interpolation of INTERPOLATIONS) {
    const wanted = resize(image, 31, 35, interpolation).data.filter((_, i) => i % 3 === 1);
    assert.deepEqual(resize(green, 31, 35, interpolation).data, wanted);
  }
});

test("an empty result and an unknown interpolation are refused", () => {
  const image = IMAGES.get("noise-2x3");
  assert.throws(() => resize(image, 0, 4, "bicubic"), new ImageError("an image of 2x3 pixels would become 0x4; use one that is less narrow"));
  assert.throws(() => resize(image, 4, NaN, "bicubic"), ImageError);
  assert.throws(() => resize(image, 4, 4, "random"), (/** @type {Error} */ error) => error instanceof ConfigError && /"random".*lanczos/.test(error.message));
  assert.throws(() => resize(image, 4, 4, "toString"), ConfigError);
});
