/** Reads the conformance vectors. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/**
 * @param {string} name
 * @returns {any}
 */
export function vectors(name) {
  return JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), "utf8"));
}

/**
 * @param {string} base64
 * @returns {Uint8Array} a copy of its own
 */
export function bytesOf(base64) {
  return Uint8Array.from(Buffer.from(base64, "base64"));
}

/**
 * @param {string} base64
 * @returns {Float32Array}
 */
export function floatsOf(base64) {
  return new Float32Array(bytesOf(base64).buffer);
}

/**
 * @param {ArrayBufferView} data
 * @returns {string}
 */
export function base64Of(data) {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
}

/**
 * Bytes as a vector holds them: themselves, or of many their digest.
 * @param {ArrayBufferView} data
 * @param {{base64: string} | {sha256: string, size: number}} like
 */
export function heldLike(data, like) {
  if ("base64" in like) return { base64: base64Of(data) };
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return { sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
}

/**
 * snake_case names of Python's as camelCase ones, at every depth.
 * @param {any} value
 * @returns {any}
 */
export function camel(value) {
  if (Array.isArray(value)) return value.map(camel);
  if (value === null || typeof value !== "object") return value;
  const name = (/** @type {string} */ key) => key.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [name(key), camel(one)]));
}
