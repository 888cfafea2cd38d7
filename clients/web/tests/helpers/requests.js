/** The vectors' requests. */

import { bytesOf, camel } from "./vectors.js";

/**
 * @param {any} given
 * @returns {import("../../src/oip.js").Request}
 */
export function requestOf(given) {
  return { ...camel(given), payload: bytesOf(given.payload) };
}
