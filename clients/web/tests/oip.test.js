import assert from "node:assert/strict";
import test from "node:test";

import { BadRequestError } from "../src/errors.js";
import { encodeParcel, encodeRequest, sendingOf } from "../src/oip.js";
import { base64Of, vectors } from "./helpers/vectors.js";
import { requestOf } from "./helpers/requests.js";

const { requests: REQUESTS, parcels: PARCELS } = vectors("oip");
const PLAIN = requestOf(REQUESTS[0].request);

const sent = ({ body, jsonBytes }) => ({ json: Buffer.from(body.subarray(0, jsonBytes)).toString(), body: base64Of(body) });
const wanted = ({ body, json_bytes }) => ({ json: Buffer.from(body, "base64").subarray(0, json_bytes).toString(), body });

test("one request has the bytes of Python's", () => {
  for (const vector of REQUESTS) assert.deepEqual(sent(encodeRequest(requestOf(vector.request))), wanted(vector));
});

test("a parcel has the bytes of Python's", () => {
  for (const vector of PARCELS) assert.deepEqual(sent(encodeParcel(vector.requests.map(requestOf))), wanted(vector));
});

test("one request goes to its model, with the length of its JSON and the token", () => {
  for (const vector of REQUESTS) {
    assert.deepEqual(sendingOf([requestOf(vector.request)], "secret"), {
      path: vector.path,
      headers: {
        "Content-Type": "application/octet-stream",
        "x-request-disconnect-disabled": "?1",
        "Inference-Header-Content-Length": String(vector.json_bytes),
        Authorization: "Bearer secret",
      },
      body: encodeRequest(requestOf(vector.request)).body,
    });
  }
});

test("several requests, and models whose names cannot stand in a path, go as a parcel", () => {
  for (const some of [[PLAIN, PLAIN], [{ ...PLAIN, model: "a/b" }], [{ ...PLAIN, model: ".." }], [{ ...PLAIN, model: "x".repeat(201) }]]) {
    const { path, headers, body } = sendingOf(some);
    const { body: same, jsonBytes } = encodeParcel(some);
    assert.deepEqual([path, body, headers["Inference-Header-Content-Length"]], ["/v2/parcel", same, String(jsonBytes)]);
    assert.ok(!("Authorization" in headers));
  }
});

test("what cannot be written is refused, with the value", () => {
  const refused = (call, text) => assert.throws(call, (error) => error instanceof BadRequestError && error.message.includes(text));
  refused(() => sendingOf([]), "0 requests");
  refused(() => sendingOf(Array(1025).fill(PLAIN)), "1025 requests");
  refused(() => encodeRequest({ ...PLAIN, cut: 1.5 }), "1.5");
  refused(() => encodeRequest({ ...PLAIN, cut: -1 }), "-1");
  refused(() => encodeRequest({ ...PLAIN, shape: [2, NaN] }), "null");
  refused(() => encodeRequest({ ...PLAIN, topK: 0.5 }), "0.5");
  refused(() => encodeRequest({ ...PLAIN, deadlineMs: Infinity }), "deadlineMs");
});
