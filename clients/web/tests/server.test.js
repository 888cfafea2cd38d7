import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";

import { ServerError, ShardError } from "../src/errors.js";
import { Server } from "../src/server.js";
import { requestOf } from "./helpers/requests.js";
import { bytesOf, camel, vectors } from "./helpers/vectors.js";

const { requests: REQUESTS, answers: ANSWERS } = vectors("oip");
const PREPROCESSING = vectors("preprocess")[0].preprocessing;
const [CALIBRATED] = vectors("calibration").read;

/** A server by a function of path and options; what it was asked is kept. */
function serverOf(answer, token = "") {
  const asked = [];
  const ask = async (url, options) => {
    asked.push({ url, ...options });
    return answer(url, options);
  };
  return { server: new Server("http://edge/app/", token, ask), asked };
}

const json = (document, status = 200) => new Response(JSON.stringify(document), { status, headers: { headtail: "1" } });

const DESCRIPTION = {
  name: "vit",
  manifest: "f00d",
  manifest_json: JSON.stringify({ shapes: [[3, 8, 8], [4, 6], [10]], channel_axes: [0, 1, 0], shards: [{ size_bytes: 7 }, { size_bytes: 9 }] }),
  entries: [0, 1],
  codecs: ["fp32", "rgb8"],
  labels: ["tench"],
  preprocessing_json: JSON.stringify(PREPROCESSING),
  onnx: "beef",
};

test("models are asked for with the token, and no redirect is followed", async () => {
  const { server, asked } = serverOf(() => json([{ name: "vit" }, { name: "swin" }]), "secret");
  assert.deepEqual(await server.models(), ["vit", "swin"]);
  assert.deepEqual(asked, [{ url: "http://edge/app/v2/models", headers: { Authorization: "Bearer secret" }, redirect: "error" }]);
});

test("a description has what a device needs; older servers do not say how images are preprocessed", async () => {
  const { server, asked } = serverOf(() => json(DESCRIPTION));
  const served = await server.describe("vit/a b");
  assert.equal(asked[0].url, "http://edge/app/describe?model=vit%2Fa%20b");
  assert.deepEqual(served.preprocessing.shape, PREPROCESSING.input_size);
  const { preprocessing, ...rest } = served;
  assert.deepEqual(rest, {
    name: "vit",
    manifest: "f00d",
    shapes: [[3, 8, 8], [4, 6], [10]],
    channelAxes: [0, 1, 0],
    sliceBytes: [7, 9],
    entries: [0, 1],
    codecs: ["fp32", "rgb8"],
    labels: ["tench"],
    onnx: "beef",
    calibration: null,
    calibrated: [],
  });
  const { preprocessing_json, labels, onnx, ...old } = DESCRIPTION;
  const older = await serverOf(() => json(old)).server.describe("vit");
  assert.deepEqual([older.preprocessing, older.labels, older.onnx], [null, [], ""]);
});

test("a description says which cuts have tables, and what the planner reckons with", async () => {
  const calibrated = { ...DESCRIPTION, manifest: CALIBRATED.manifest, calibration_json: CALIBRATED.text };
  const { calibration, calibrated: measured } = await serverOf(() => json(calibrated)).server.describe("vit");
  assert.deepEqual(calibration.cuts[0], { cut: 1, tables: { sha256: CALIBRATED.cuts[0].sha256, sizeBytes: 4321 }, qualities: { "transform-990": 1 } });
  assert.deepEqual(measured[0], { cut: 0, codec: "jpeg-75", payloadBytes: 812.5, agreement: 0.97 });
});

test("a calibration that is damaged or of other weights is no description", async () => {
  for (const damaged of [{ calibration_json: "{" }, { manifest: "beef".repeat(16) }]) {
    const told = { ...DESCRIPTION, manifest: CALIBRATED.manifest, calibration_json: CALIBRATED.text, ...damaged };
    await assert.rejects(serverOf(() => json(told)).server.describe("vit"), (error) => error instanceof ShardError && /calibrate the model again/.test(error.message));
  }
});

test("a head's slices are those of the index, in either form; a server may have none", async () => {
  const file = (sha256, size_bytes) => ({ file: "slice_1.onnx", sha256, size_bytes });
  const slice = { input: "pixels", output: "activation", input_shape: [3, 8, 8], output_shape: [4, 6], fp32: file("aa", 9), int8: file("bb", 3) };
  const index = { format: 1, manifest: "f00d", opset: 18, slices: [slice, { ...slice, int8: null }] };
  const of = (document) => {
    const text = typeof document === "string" ? document : JSON.stringify(document);
    const served = { name: "vit", manifest: "f00d", onnx: createHash("sha256").update(text).digest("hex") };
    return { served, ...serverOf(() => new Response(text)) };
  };
  const { server, asked, served } = of(index);
  const plain = { input: "pixels", output: "activation", inputShape: [3, 8, 8], outputShape: [4, 6], sha256: "aa", sizeBytes: 9 };
  assert.deepEqual(await server.headSlices(served), [plain, plain]);
  assert.deepEqual(await server.headSlices(served, true), [{ ...plain, sha256: "bb", sizeBytes: 3 }, plain]);
  assert.equal(asked[0].url, `http://edge/app/shard/${served.onnx}?offset=0&length=4194304`);
  const none = serverOf(() => assert.fail("nothing is asked"));
  assert.deepEqual(await none.server.headSlices({ ...served, onnx: "" }), []);
  const refused = (document, kind) => {
    const { server, served } = of(document);
    return assert.rejects(server.headSlices(served), kind);
  };
  await refused({ ...index, manifest: "beef" }, ShardError);
  await refused({ ...index, format: 2 }, ServerError);
  await refused("<html>", ServerError);
  await assert.rejects(server.headSlices({ ...served, onnx: "f00d".repeat(16) }), ShardError);
  await assert.rejects(serverOf(() => json({ error: "none" }, 404)).server.headSlices(served), ServerError);
});

test("a file comes in pieces that the server hands out, and grows as they come", async () => {
  const whole = Uint8Array.from({ length: (4 << 20) + 5 }, (_, i) => i * 7);
  const { server, asked } = serverOf((url) => {
    const { searchParams } = new URL(url);
    const offset = Number(searchParams.get("offset"));
    return new Response(whole.slice(offset, offset + Number(searchParams.get("length"))));
  });
  const grown = [];
  const found = await server.file("/shard", { sha256: "abc", sizeBytes: whole.length }, (bytes) => grown.push(bytes));
  assert.ok(Buffer.from(found).equals(Buffer.from(whole)));
  assert.deepEqual(grown, [4 << 20, whole.length]);
  assert.equal(asked[1].url, `http://edge/app/shard/abc?offset=${4 << 20}&length=5`);
});

test("a file that ends too early, or does not end, is refused", async () => {
  for (const bytes of [0, 6]) {
    const { server } = serverOf(() => new Response(new Uint8Array(bytes)));
    await assert.rejects(server.file("/shard", { sha256: "abc", sizeBytes: 5 }), ShardError);
  }
});

test("a request is sent as the protocol has it, and its answer is read", async () => {
  const { json_bytes, body, request, reply } = ANSWERS.find((one) => one.reply && one.request.top_k);
  const headers = json_bytes === null ? { headtail: "1" } : { headtail: "1", "Inference-Header-Content-Length": json_bytes };
  const { server, asked } = serverOf(() => new Response(bytesOf(body), { headers }), "secret");
  const answer = await server.send(requestOf(request));
  assert.deepEqual(answer.classes, camel(reply).classes);
  assert.equal(asked[0].url, "http://edge/app/v2/models/vit/infer");
  assert.deepEqual([asked[0].method, asked[0].headers.Authorization, asked[0].redirect], ["POST", "Bearer secret", "error"]);
});

test("a server that refuses, cannot be reached or is another one is an error that says so", async () => {
  const refused = async (answer, pattern) => {
    const error = (thrown) => thrown instanceof ServerError && pattern.test(thrown.message);
    await assert.rejects(serverOf(answer).server.models(), error);
    await assert.rejects(serverOf(answer).server.describe("vit"), error);
  };
  await refused(() => json({ error: "a missing or wrong token" }, 401), /401.*wrong token/);
  await refused(() => new Response("<html>", { status: 502, statusText: "Bad Gateway" }), /502.*Bad Gateway/);
  await refused(() => new Response("<html>"), /no HeadTail server/);
  await refused(() => json({ name: "vit" }), /no HeadTail server/);
  await refused(() => {
    throw new TypeError("fetch failed");
  }, /cannot be reached/);
});

test("who gave up is told so, and nothing else", async () => {
  const giveUp = new AbortController();
  const { server } = serverOf((_, { signal }) => {
    giveUp.abort();
    return signal.throwIfAborted();
  });
  await assert.rejects(server.send(requestOf(REQUESTS[0].request), giveUp.signal), { name: "AbortError" });
});
