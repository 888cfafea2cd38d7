/** What came back over HTTP: an answer, a refusal, or an error that says whose; as slicer/core/client/connection.py has it. */

import { BadRequestError, ComeAgain, ServerError } from "./errors.js";
import { LENGTH_HEADER } from "./oip.js";
import { CODES, decodeAnswer, decodeAnswers, isObject, refusalOf } from "./replies.js";

/**
 * @typedef {object} Received
 * @property {number} status of HTTP
 * @property {{get(name: string): string | null}} headers
 * @property {Uint8Array} body
 *
 * @typedef {import("./oip.js").Request} Request
 * @typedef {import("./replies.js").Reply} Reply
 * @typedef {import("./replies.js").Refusal} Refusal
 */

/** A header of every response of a HeadTail server; what lacks it is somebody else's answer. */
const SERVER_HEADER = "headtail";

/**
 * The answer to one request.
 * @param {Received} received
 * @param {Request} request
 * @returns {Reply | Refusal} a refusal has a `code`
 * @throws {ComeAgain} what lies before the server has none to ask now
 * @throws {ServerError} another status, such as of a wrong token, or no HeadTail server of this release
 */
export function readAnswer(received, request) {
  checkOwn(received);
  if (received.status === 200) {
    return understood(() => decodeAnswer(received.body, received.headers.get(LENGTH_HEADER), request));
  }
  const document = errorOf(received.body);
  if (document !== null && Object.hasOwn(CODES, String(document.code)) && typeof document.error === "string") {
    return refusalOf(document, request.id);
  }
  throw new ServerError(`the server answered ${received.status}: ${said(received.body)}`);
}

/**
 * The answers to a parcel, in the order of its requests. Throws as `readAnswer`.
 * @param {Received} received
 * @param {readonly Request[]} requests
 * @returns {(Reply | Refusal)[]}
 */
export function readAnswers(received, requests) {
  checkOwn(received);
  if (received.status !== 200) throw new ServerError(`the server answered ${received.status}: ${said(received.body)}`);
  return understood(() => decodeAnswers(received.body, received.headers.get(LENGTH_HEADER), requests));
}

/** @param {Received} received */
function checkOwn({ status, headers, body }) {
  if (headers.get(SERVER_HEADER) !== null) return;
  if ([404, 408, 425, 429].includes(status) || status >= 500) {
    throw new ComeAgain(`no replica to ask, or not HeadTail (its proxy answered ${status}: ${said(body)}); try again later`);
  }
  throw new ServerError(`no HeadTail server of this release; ${status} was answered: ${said(body)}`);
}

/**
 * @template T
 * @param {() => T} read
 * @returns {T}
 */
function understood(read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof BadRequestError) throw new ServerError(`no HeadTail server of this release: ${error.message}`);
    throw error;
  }
}

/**
 * What the body of an error says: of proxies plain text or HTML.
 * @param {Uint8Array} body
 * @returns {string}
 */
function said(body) {
  const document = errorOf(body);
  if (document !== null && "error" in document) return String(document.error);
  return new TextDecoder().decode(body.subarray(0, 4096)).split(/\s+/).join(" ").trim().slice(0, 200) || "an empty body";
}

/**
 * @param {Uint8Array} body
 * @returns {Record<string, any> | null}
 */
function errorOf(body) {
  try {
    const document = JSON.parse(new TextDecoder().decode(body));
    return isObject(document) ? document : null;
  } catch {
    return null;
  }
}
