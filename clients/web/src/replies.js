/**
 * The body of an answer of status 200: JSON, and behind it the bytes of logits. Read as slicer/core/protocol/oip/one_row.py
 * reads it. A refusal is data, not an error: of several requests one bad one answers for itself.
 */

import { BadRequestError, shown } from "./errors.js";
import { LENGTH_HEADER } from "./oip.js";

/**
 * Where a request spent its time in the server, ms, and how many rows each of its steps had.
 * @typedef {object} Timings
 * @property {number} admissionMs
 * @property {number} queueMs
 * @property {number} executionMs
 * @property {number} totalMs
 * @property {readonly number[]} rowsPerStep
 *
 * @typedef {object} ClassScore
 * @property {number} index
 * @property {number} score the logit
 * @property {string} label empty: the server knows none
 *
 * @typedef {object} Reply
 * @property {string} id
 * @property {Timings} timings
 * @property {readonly ClassScore[]} classes best first; empty where all logits were asked for
 * @property {Float32Array} logits empty where classes were asked for
 * @property {readonly number[]} logitsShape
 * @property {string} server name of the replica
 * @property {readonly (readonly [number, number, number])[]} load entry, ms in queues, ms of execution
 *
 * @typedef {object} Refusal
 * @property {string} id
 * @property {string} code one of `CODES`
 * @property {string} message for people: what is wrong, and the remedy
 * @property {string} server
 *
 * @typedef {import("./oip.js").Request} Request
 */

/** Why a request was not answered, for programs -> the status of HTTP. */
export const CODES = Object.freeze({
  unknown_model: 404,
  stale: 409,
  bad_cut: 400,
  bad_codec: 400,
  bad_shape: 400,
  bad_request: 400,
  not_finite: 400,
  overloaded: 503,
  too_late: 504,
  failed: 500,
  cancelled: 499,
  stopped: 503,
});

/** Codes after which the same request may be sent again, after a pause. */
export const RETRYABLE = Object.freeze(["overloaded", "stopped"]);

/**
 * The reply in a body of status 200.
 * @param {Uint8Array} body
 * @param {string | null} jsonBytes value of `LENGTH_HEADER`; null: the whole body is JSON
 * @param {Request} request
 * @returns {Reply}
 * @throws {BadRequestError} the body holds none
 */
export function decodeAnswer(body, jsonBytes, request) {
  const { document, rest } = documentOf(body, jsonBytes);
  const { reply, end } = replyOf(document, rest, 0, request);
  checkEnded(rest, end);
  return reply;
}

/**
 * The answers in a body of status 200 to a parcel.
 * @param {Uint8Array} body
 * @param {string | null} jsonBytes
 * @param {readonly Request[]} requests
 * @returns {(Reply | Refusal)[]}
 * @throws {BadRequestError} the body holds none, or not as many
 */
export function decodeAnswers(body, jsonBytes, requests) {
  const { document, rest } = documentOf(body, jsonBytes);
  const entries = document.responses;
  if (!Array.isArray(entries)) throw wrong("responses of the answer", entries, "a list");
  if (entries.length !== requests.length) {
    throw wrong("the number of responses of the answer", entries.length, `${requests.length}, one per request`);
  }
  let at = 0;
  const found = entries.map((entry, number) => {
    if (!isObject(entry)) throw wrong("an answer of the parcel", entry, "a JSON object");
    if (Object.hasOwn(entry, "error")) return refusalOf(entry, requests[number].id);
    const { reply, end } = replyOf(entry, rest, at, requests[number]);
    at = end;
    return reply;
  });
  checkEnded(rest, at);
  return found;
}

/**
 * @param {Record<string, any>} entry
 * @param {Uint8Array} rest what follows the JSON
 * @param {number} at where the entry's tensor begins in it
 * @param {Request} request
 * @returns {{reply: Reply, end: number}}
 */
function replyOf(entry, rest, at, request) {
  const { outputs, parameters } = entry;
  if (!Array.isArray(outputs) || outputs.length !== 1 || !isObject(outputs[0]) || !isObject(parameters)) {
    throw wrong("the answer", entry, "an object with one output, and parameters");
  }
  const [output] = outputs;
  const server = parameters.server ?? "";
  if (output.name !== "logits" || !Array.isArray(output.shape) || output.shape[0] !== 1 || typeof server !== "string") {
    throw wrong("the output of the answer", output, "one row of logits");
  }
  const all = (request.topK ?? null) === null;
  const logitsShape = all ? output.shape.slice(1) : [];
  const { logits, end } = all ? logitsOf(output, logitsShape, rest, at) : { logits: new Float32Array(), end: at };
  const classes = all ? [] : classesOf(output);
  const load = parameters.load ? loadOf(parameters.load) : [];
  return { reply: { id: request.id, timings: timingsOf(parameters), classes, logits, logitsShape, server, load }, end };
}

/**
 * @param {Record<string, any>} output
 * @param {readonly unknown[]} shape of one row
 * @param {Uint8Array} rest
 * @param {number} at
 */
function logitsOf(output, shape, rest, at) {
  if (!shape.every((dim) => Number.isSafeInteger(dim) && Number(dim) >= 0)) {
    throw wrong("the shape of logits", shape, "whole numbers");
  }
  const bytes = shape.reduce((/** @type {number} */ all, dim) => all * Number(dim), 4);
  const size = isObject(output.parameters) ? output.parameters.binary_data_size : undefined;
  if (output.datatype !== "FP32" || size !== bytes || bytes > rest.length - at) {
    throw wrong("the output of the answer", output, `FP32, ${bytes} bytes of the ${rest.length - at} that follow`);
  }
  return { logits: new Float32Array(rest.slice(at, at + bytes).buffer), end: at + bytes };
}

/**
 * @param {Record<string, any>} output
 * @returns {ClassScore[]}
 */
function classesOf({ data }) {
  if (!Array.isArray(data) || !data.every((one) => typeof one === "string")) {
    throw wrong("the data of the answer", data, "a list of texts");
  }
  return data.map((text) => {
    const found = /^(-?(?:[\d.]+(?:e[+-]?\d+)?|inf|nan)):(-?\d+)(?::(.*))?$/s.exec(text); // the label may hold colons
    const score = Number(found?.[1].replace("inf", "Infinity"));
    if (found === null || (Number.isNaN(score) && !found[1].endsWith("nan"))) {
      throw wrong("a class", text, "value:index or value:index:label");
    }
    return { index: Number(found[2]), score, label: found[3] ?? "" };
  });
}

/**
 * @param {Record<string, any>} parameters
 * @returns {Timings}
 */
function timingsOf(parameters) {
  const [admissionMs, queueMs, executionMs, totalMs] = ["admission_ms", "queue_ms", "execution_ms", "total_ms"].map((name) => {
    if (typeof parameters[name] !== "number") throw wrong(name, parameters[name], "a duration");
    return parameters[name];
  });
  const text = String(parameters.rows_per_step || "");
  if (!/^(\d+(,\d+)*)?$/.test(text)) throw wrong("rows_per_step", text, "whole numbers with commas between");
  return { admissionMs, queueMs, executionMs, totalMs, rowsPerStep: text ? text.split(",").map(Number) : [] };
}

/**
 * @param {unknown} text
 * @returns {[number, number, number][]}
 */
function loadOf(text) {
  const load = parsed(String(text));
  const whole = Array.isArray(load) && load.every((one) => Array.isArray(one) && one.length === 3 && one.every(Number.isFinite));
  if (!whole) throw wrong("load", text, "a list of entries, each with two durations");
  return load;
}

/**
 * @param {Record<string, any>} document
 * @param {string} id
 * @returns {Refusal}
 */
export function refusalOf(document, id) {
  const { code, error, server = "" } = document;
  if (!Object.hasOwn(CODES, String(code)) || typeof error !== "string") {
    throw wrong("the refusal's code", code, "one of this release's");
  }
  return { id, code, message: error, server: String(server) };
}

/**
 * @param {Uint8Array} body
 * @param {string | null} jsonBytes
 */
function documentOf(body, jsonBytes) {
  const fits = jsonBytes === null || (/^\d{1,18}$/.test(jsonBytes) && Number(jsonBytes) <= body.length);
  if (!fits) throw wrong(LENGTH_HEADER, jsonBytes, `a whole number, at most the ${body.length} bytes of the body`);
  const end = jsonBytes === null ? body.length : Number(jsonBytes);
  const document = parsed(decoded(body.subarray(0, end)));
  if (!isObject(document)) throw wrong("the body", document, "a JSON object");
  return { document, rest: body.subarray(end) };
}

/**
 * @param {Uint8Array} bytes
 */
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new BadRequestError(`the JSON cannot be read: ${error}`);
  }
}

/** @param {string} json */
function parsed(json) {
  try {
    return JSON.parse(json);
  } catch (error) {
    throw new BadRequestError(`the JSON cannot be read: ${error}`);
  }
}

/**
 * @param {unknown} value
 * @returns {value is Record<string, any>}
 */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * @param {Uint8Array} rest
 * @param {number} end
 */
function checkEnded(rest, end) {
  if (end !== rest.length) throw new BadRequestError(`${rest.length - end} bytes follow the last tensor of the answer`);
}

/**
 * @param {string} what
 * @param {unknown} value
 * @param {string} want
 */
function wrong(what, value, want) {
  return new BadRequestError(`${what} is ${shown(value)}; it must be ${want}`);
}
