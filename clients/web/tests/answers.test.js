import assert from "node:assert/strict";
import test from "node:test";

import { readAnswer, readAnswers } from "../src/answers.js";
import { BadRequestError, ComeAgain, ServerError } from "../src/errors.js";
import { CODES, RETRYABLE, decodeAnswer, decodeAnswers } from "../src/replies.js";
import { requestOf } from "./helpers/requests.js";
import { base64Of, bytesOf, camel, vectors } from "./helpers/vectors.js";

const { answers: ANSWERS, parcel_answers: PARCELS, refusals: REFUSALS, requests: REQUESTS } = vectors("oip");
const PLAIN = requestOf(REQUESTS[0].request);

/** As the vectors hold it. */
const told = (answer) => ("logits" in answer ? { ...answer, logits: base64Of(answer.logits) } : answer);

const received = (status, body, headers = { headtail: "1" }) => ({
  status,
  headers: new Headers(headers),
  body: typeof body === "string" ? new TextEncoder().encode(body) : body,
});

test("an answer is read as Python reads it: classes with labels, or logits; timings; load", () => {
  const fit = ANSWERS.filter((one) => one.reply);
  assert.ok(fit.length >= 6);
  for (const { request, json_bytes, body, reply } of fit) {
    assert.deepEqual(told(decodeAnswer(bytesOf(body), json_bytes, requestOf(request))), camel(reply));
    const headers = json_bytes === null ? { headtail: "1" } : { headtail: "1", "inference-header-content-length": json_bytes };
    assert.deepEqual(told(readAnswer(received(200, bytesOf(body), headers), requestOf(request))), camel(reply));
  }
});

test("an answer that Python refuses is refused", () => {
  const bad = ANSWERS.filter((one) => one.error);
  assert.ok(bad.length > 30);
  for (const { request, json_bytes, body, error } of bad) {
    assert.equal(error, "BadRequestError");
    assert.throws(() => decodeAnswer(bytesOf(body), json_bytes, requestOf(request)), BadRequestError, `${json_bytes}: ${bytesOf(body)}`);
  }
});

test("of a parcel each row is answered or refused for itself", () => {
  for (const { requests, json_bytes, body, replies } of PARCELS) {
    const asked = requests.map(requestOf);
    assert.deepEqual(decodeAnswers(bytesOf(body), json_bytes, asked).map(told), camel(replies));
    const answer = received(200, bytesOf(body), { headtail: "1", "Inference-Header-Content-Length": json_bytes });
    assert.deepEqual(readAnswers(answer, asked).map(told), camel(replies));
    assert.throws(() => decodeAnswers(bytesOf(body), json_bytes, asked.slice(1)), BadRequestError);
    assert.throws(() => decodeAnswers(bytesOf(body).subarray(0, -4), json_bytes, asked), BadRequestError);
  }
});

test("a refusal has a code for programs and a reason for people; every code of the server's is known", () => {
  for (const { status, body, reply } of REFUSALS) {
    assert.deepEqual(readAnswer(received(status, bytesOf(body)), PLAIN), camel(reply));
    assert.equal(CODES[reply.code], status);
  }
  assert.deepEqual(Object.keys(CODES).sort(), REFUSALS.map((one) => one.reply.code).sort());
  assert.ok(RETRYABLE.every((code) => code in CODES));
});

test("a status without a code is an error with both in it", () => {
  const thrown = (status, body) => {
    for (const read of [() => readAnswer(received(status, body), PLAIN), () => readAnswers(received(status, body), [PLAIN])]) {
      assert.throws(read, (error) => error.constructor === ServerError && error.message.includes(String(status)));
    }
  };
  thrown(401, '{"error": "no token"}');
  thrown(500, "<h1>Internal</h1>");
  thrown(400, '{"error": "new", "code": "not_of_this_release"}');
  thrown(400, '{"code": "stale"}');
  thrown(302, "");
  assert.throws(() => readAnswer(received(401, '{"error": "no token"}'), PLAIN), /no token/);
});

test("an answer of status 200 that cannot be read is another release's", () => {
  assert.throws(() => readAnswer(received(200, "<html>"), PLAIN), (error) => error.constructor === ServerError);
  assert.throws(() => readAnswers(received(200, '{"responses": []}'), [PLAIN]), (error) => error.constructor === ServerError);
});

test("what lacks the server's header is somebody else's: a proxy's for the moment, or another server's", () => {
  for (const status of [404, 408, 425, 429, 500, 502, 503]) {
    assert.throws(() => readAnswer(received(status, "503 no server", {}), PLAIN), ComeAgain);
  }
  for (const status of [200, 301, 401, 403]) {
    assert.throws(() => readAnswer(received(status, "<p>log in\n please", {}), PLAIN), (error) => error.constructor === ServerError && error.message.includes("log in please"));
  }
});
