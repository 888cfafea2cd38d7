import assert from "node:assert/strict";
import test from "node:test";

import { encode } from "../src/codecs.js";
import * as errors from "../src/errors.js";
import { product } from "../src/numbers.js";
import { crc32 } from "../transform/crc32.js";
import { BoundaryCodec } from "../transform/payload.js";
import { encode as rans } from "../transform/rans.js";
import { readTables } from "../transform/tables.js";
import { base64Of, bytesOf, floatsOf, heldLike, vectors } from "./helpers/vectors.js";

const { messages: MESSAGES, tables: TABLES, integers: INTEGERS, activations: ACTIVATIONS, refused: REFUSED, damaged: DAMAGED } = vectors("transform");
const NAMES = TABLES.map((one) => one.name);
const A_MAP = TABLES.find((one) => one.name === "a map");

/** @type {Map<string, BoundaryCodec>} */
const CODECS = new Map();
for (const { name, file, sha256 } of TABLES) CODECS.set(name, new BoundaryCodec(await readTables(bytesOf(file), sha256)));

/** @param {number} size */
const padded = (size, integers) => Int32Array.from({ length: size }, (_, at) => integers[at] ?? 0);

for (const name of NAMES) {
  const codec = /** @type {BoundaryCodec} */ (CODECS.get(name));
  const of = (cases) => cases.filter((one) => one.tables === name);

  test(`tables of ${name} say of which activations they are, and hold half floats`, () => {
    const { shape, analysis } = TABLES.find((one) => one.name === name);
    assert.deepEqual(codec.tables.shape, shape);
    assert.deepEqual(codec.tables.analysis, floatsOf(analysis));
  });

  test(`integers of ${name} become numpy's bytes`, () => {
    assert.equal(of(INTEGERS).length, 6);
    for (const { quality, integers, payload } of of(INTEGERS)) {
      const found = codec.packed(padded(codec.groups * 4, integers), quality);
      assert.equal(base64Of(found), payload, `quality ${quality}: ${integers}`);
    }
  });

  test(`activations of ${name} become numpy's bytes where no coefficient is near a half`, () => {
    assert.ok(of(ACTIVATIONS).length >= 1);
    for (const { quality, values, payload } of of(ACTIVATIONS)) {
      const activation = { values: floatsOf(values), shape: codec.tables.shape };
      assert.equal(base64Of(codec.encode(activation, quality)), payload, `quality ${quality}`);
    }
  });
}

test("symbols become numpy's words", () => {
  assert.equal(MESSAGES.length, 6);
  for (const { starts, frequencies, seeds, words } of MESSAGES) {
    assert.deepEqual([...rans(...[starts, frequencies, seeds].map((one) => Uint16Array.from(one)))], words);
  }
});

/** Of eight channels at one place, where coefficients are the activation itself; a step is 1. */
const PLAIN = new BoundaryCodec({
  .../** @type {BoundaryCodec} */ (CODECS.get("a map")).tables,
  grid: [1, 1],
  shape: [1, 1, 8],
  mean: new Float32Array(8),
  analysis: Float32Array.from({ length: 64 }, (_, at) => Number(at % 9 === 0)),
  levels: Uint8Array.of(100, 100, 101, 100, 100, 100, 101, 100),
  steps: Uint8Array.of(128),
});

test("coefficients are rounded to the nearest, ties to even, and those of equal scale keep their order", () => {
  const found = PLAIN.quantised(Float32Array.of(0.5, 1.5, -8.49, 2.5, -0.5, -1.5, 7.51, -2.5), 0);
  assert.deepEqual([...found], [-8, 8, 0, 2, 2, 0, -2, -2]);
});

test("coefficients are coded up to 65550 steps", () => {
  assert.equal(PLAIN.quantised(new Float32Array(8).fill(65549.9), 0)[0], 65550);
  assert.throws(() => PLAIN.quantised(new Float32Array(8).fill(65550), 0), /6.56e\+4 steps .* use int8/);
});

test("more escapes than a payload can count are refused", () => {
  const many = new BoundaryCodec({ ...PLAIN.tables, levels: new Uint8Array(65536) });
  assert.throws(() => many.packed(new Int32Array(65536).fill(15), 0), /65536 coefficients are far beyond calibration; use int8/);
});

test("what Python refuses is refused", () => {
  assert.equal(REFUSED.length, 9);
  for (const { tables, quality, shape, values, error } of REFUSED) {
    assert.throws(
      () => CODECS.get(tables)?.encode({ values: floatsOf(values), shape }, quality),
      (/** @type {Error} */ thrown) => thrown.constructor === errors[error],
      `quality ${quality}, [${shape}], ${floatsOf(values)}: ${error}`,
    );
  }
});

test("a refusal says the value and the remedy", () => {
  const codec = /** @type {BoundaryCodec} */ (CODECS.get("a map"));
  const zeros = { values: new Float32Array(75), shape: [3, 5, 5] };
  const far = { ...zeros, values: zeros.values.map(() => 1e8) };
  const refused = (call, text) => assert.throws(call, (error) => error instanceof errors.CodecError && error.message.includes(text));
  refused(() => codec.encode(far, 0), "more than 65550 can be coded; use int8");
  refused(() => codec.encode(zeros, 3), "quality 3; these tables have 0 to 2");
  refused(() => codec.encode(zeros, -1), "quality -1");
  refused(() => codec.encode(zeros, 0.5), "quality 0.5");
  refused(() => codec.encode({ ...zeros, shape: [5, 3, 5] }, 0), "75 values of shape [5,3,5]; these tables are of activations [3,5,5]");
  refused(() => codec.encode({ ...zeros, values: new Float32Array(74) }, 0), "74 values");
});

test("tables that Python refuses are refused", async () => {
  assert.ok(DAMAGED.length > 15);
  for (const { keep, old, new: put, at, data } of DAMAGED) {
    const file = bytesOf(A_MAP.file);
    if (at !== undefined) file.set(bytesOf(data), at);
    const text = Buffer.from(file).toString("latin1");
    const damaged = Uint8Array.from(Buffer.from(old === undefined ? text.slice(0, keep) : text.replaceAll(old, put), "latin1"));
    const { sha256 } = heldLike(damaged, { sha256: "", size: 0 });
    await assert.rejects(
      () => readTables(damaged, sha256),
      (error) => error instanceof errors.ShardError && error.message.includes("calibrate the model again"),
      `${JSON.stringify({ keep, old, put, at, data })} was taken`,
    );
  }
});

test("tables with another digest than was told are refused", async () => {
  await assert.rejects(() => readTables(bytesOf(A_MAP.file), "0".repeat(64)), /not 000000000000: load the page again/);
});

test("tables are read from anywhere in a buffer", async () => {
  const file = bytesOf(A_MAP.file);
  const shifted = new Uint8Array(file.length + 3);
  shifted.set(file, 3);
  assert.deepEqual(await readTables(shifted.subarray(3), A_MAP.sha256), await readTables(file, A_MAP.sha256));
});

test("codecs that need tables are chosen by name as the others are", () => {
  const { values, payload, quality } = ACTIVATIONS.find((one) => one.tables === "a map" && one.quality === 1);
  const boundary = /** @type {BoundaryCodec} */ (CODECS.get("a map"));
  const calibrated = { boundary, qualities: { "transform-990": quality, "transform-980": 2 } };
  const refused = (codec, given, text) =>
    assert.throws(() => encode(codec, floatsOf(values), [3, 5, 5], 2, given), (error) => error instanceof errors.CodecError && error.message.includes(text));
  assert.equal(base64Of(encode("transform-990", floatsOf(values), [3, 5, 5], 2, calibrated)), payload);
  assert.notEqual(base64Of(encode("transform-980", floatsOf(values), [3, 5, 5], 2, calibrated)), payload);
  assert.equal(encode("fp16", floatsOf(values), [3, 5, 5], 2, calibrated).length, 2 * product([3, 5, 5]));
  refused("transform-990", null, "give them, or use one of fp32");
  refused("transform-995", calibrated, "it has transform-990, transform-980");
  refused("transform-", calibrated, "unknown codec");
});

test("the checksum is zlib's", () => {
  assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926); // the check value of CRC-32
  assert.equal(crc32(new Uint8Array(0)), 0);
});
