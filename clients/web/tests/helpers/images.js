/** The vectors' images, by name. */

import { bytesOf, vectors } from "./vectors.js";

/** @type {Map<string, import("../../src/pixels.js").Image>} */
export const IMAGES = new Map(
  vectors("images").map((/** @type {any} */ { name, width, height, rgb }) => [
    name,
    { width, height, channels: 3, data: rgb === undefined ? formula(width, height) : bytesOf(rgb) },
  ]),
);

/**
 * clients/web/making/images.py says it in words.
 * @param {number} width
 * @param {number} height
 */
function formula(width, height) {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) {
    const [c, x, y] = [i % 3, Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
    data[i] = 7 * x + 13 * y + ((x * y) >> 3) + 91 * c;
  }
  return data;
}
