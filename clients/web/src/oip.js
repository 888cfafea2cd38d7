/**
 * Requests of the Open Inference Protocol, version 2: JSON, and behind it the tensors' bytes (extension
 * binary_tensor_data). The bytes of slicer/core/protocol/oip/one_row.py. `answers.js` and `replies.js` read what comes back.
 */

import { BadRequestError, shown } from "./errors.js";

/**
 * One image's activation at a cut, encoded; slicer/core/protocol/messages.py says more of each.
 * @typedef {object} Request
 * @property {string} id unique per request; answers carry it
 * @property {string} model name in the application
 * @property {string} manifest digest of the manifest that the head was loaded from
 * @property {number} cut how many slices ran here
 * @property {string} codec that made the payload
 * @property {readonly number[]} shape of the one activation, without a batch dimension
 * @property {Uint8Array} payload
 * @property {number | null} [topK] so many classes; null: all logits
 * @property {number | null} [deadlineMs] what is left until the answer is worthless; null: no deadline
 * @property {boolean} [wantsLoad] the answer shall say how busy the server is
 * @property {string} [key] what all sendings of this request, and no others, have in common
 * @property {number} [priority] 1 is the most urgent; 0: the default
 *
 * @typedef {object} Sending
 * @property {string} path below the application's address
 * @property {Record<string, string>} headers
 * @property {Uint8Array} body
 */

/** A header of requests and responses: how many bytes of the body are JSON. */
export const LENGTH_HEADER = "Inference-Header-Content-Length";

const MAX_REQUESTS = 1024;
const DATATYPES = new Map([["fp32", "FP32"], ["fp16", "FP16"], ["bf16", "BF16"]]); // payloads of all others are opaque
const IN_PATH = /^(?!\.)[A-Za-z0-9_.@-]{1,200}$/; // other names travel in the body of a parcel

/**
 * What is sent, by POST, for one request or several.
 * @param {readonly Request[]} requests each is answered or refused for itself
 * @param {string} [token] what the server wants as bearer token
 * @returns {Sending}
 * @throws {BadRequestError} none, too many, or one that cannot be written
 */
export function sendingOf(requests, token = "") {
  const alone = requests.length === 1 && IN_PATH.test(requests[0].model);
  const { body, jsonBytes } = alone ? encodeRequest(requests[0]) : encodeParcel(requests);
  /** @type {Record<string, string>} */
  const headers = {
    "Content-Type": "application/octet-stream",
    "x-request-disconnect-disabled": "?1", // the server need not watch whether the caller left
    [LENGTH_HEADER]: String(jsonBytes),
  };
  if (token) headers.Authorization = `Bearer ${token}`;
  return { path: alone ? `/v2/models/${encodeURIComponent(requests[0].model)}/infer` : "/v2/parcel", headers, body };
}

/**
 * The body of one request, and the length of its JSON; the model's name stands in the path.
 * @param {Request} request
 * @returns {{body: Uint8Array, jsonBytes: number}}
 */
export function encodeRequest(request) {
  return joined(`{${entry(request)}}`, [request.payload]);
}

/**
 * As `encodeRequest`, of several.
 * @param {readonly Request[]} requests
 * @returns {{body: Uint8Array, jsonBytes: number}}
 */
export function encodeParcel(requests) {
  if (requests.length < 1 || requests.length > MAX_REQUESTS) {
    throw new BadRequestError(`${requests.length} requests in one parcel; there are 1 to ${MAX_REQUESTS}`);
  }
  const entries = requests.map((request) => `{"model_name":${quoted(request.model)},${entry(request)}}`);
  return joined(`{"requests":[${entries.join(",")}]}`, requests.map((request) => request.payload));
}

/**
 * The members of its JSON object.
 * @param {Request} request
 * @returns {string}
 */
function entry(request) {
  const { cut, shape, payload, topK = null, deadlineMs = null, priority = 0 } = request;
  for (const number of [cut, priority, ...shape, ...(topK === null ? [] : [topK])]) {
    if (!Number.isSafeInteger(number) || number < 0) {
      throw new BadRequestError(`${shown(number)} in request ${shown(request.id)}; cut, shape, top_k and priority are whole numbers`);
    }
  }
  const datatype = DATATYPES.get(request.codec) ?? "UINT8";
  const size = payload.length;
  const dims = datatype === "UINT8" ? [1, size] : [1, ...shape];
  const output = topK === null ? '{"binary_data":true,"datatype":"FP32"}' : `{"classification":${topK}}`;
  let text =
    `"id":${quoted(request.id)},"inputs":[{"name":"ACTIVATION","datatype":"${datatype}","shape":[${dims}],` +
    `"parameters":{"binary_data_size":${size}}}],"outputs":[{"name":"logits","parameters":${output}}],` +
    `"parameters":{"cut":${cut},"codec":${quoted(request.codec)},"manifest":${quoted(request.manifest)}`;
  if (priority) text += `,"priority":${priority}`;
  if (deadlineMs !== null) text += `,"timeout":${microseconds(deadlineMs)}`;
  if (request.key) text += `,"idempotency_key":${quoted(request.key)}`;
  return text + (request.wantsLoad ? ',"load":true}' : "}");
}

/**
 * @param {number} deadlineMs
 * @returns {number} at least 1: 0 stands for none
 */
function microseconds(deadlineMs) {
  const found = Math.max(Math.trunc(deadlineMs * 1e3), 1);
  if (!Number.isSafeInteger(found)) throw new BadRequestError(`deadlineMs ${shown(deadlineMs)}; give milliseconds, or null for none`);
  return found;
}

/**
 * As JSON in ASCII, the way Python writes it.
 * @param {string} text
 * @returns {string}
 */
function quoted(text) {
  return JSON.stringify(text).replace(/[\x7f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * @param {string} text ASCII
 * @param {readonly Uint8Array[]} payloads
 * @returns {{body: Uint8Array, jsonBytes: number}}
 */
function joined(text, payloads) {
  const body = new Uint8Array(payloads.reduce((size, payload) => size + payload.length, text.length));
  let at = new TextEncoder().encodeInto(text, body).written;
  for (const payload of payloads) {
    body.set(payload, at);
    at += payload.length;
  }
  return { body, jsonBytes: text.length };
}
