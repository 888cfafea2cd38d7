import assert from "node:assert/strict";
import test from "node:test";

import { CODECS, encode, encodedBytes } from "../src/codecs.js";
import * as errors from "../src/errors.js";
import { base64Of, floatsOf, heldLike, vectors } from "./helpers/vectors.js";

const { cases: CASES, sweeps: SWEEPS, sizes: SIZES } = vectors("codecs");

for (const codec of Object.keys(CODECS)) {
  test(`${codec} writes numpy's bytes`, () => {
    const fit = CASES.filter((one) => one.codec === codec && !one.error);
    assert.ok(fit.length > 15);
    for (const { shape, axis, values, payload } of fit) {
      const found = encode(codec, floatsOf(values), shape, axis);
      assert.equal(base64Of(found), payload, `[${shape}] along ${axis}: ${floatsOf(values)}`);
      assert.equal(encodedBytes(codec, shape, axis), found.length);
    }
  });

  test(`${codec} refuses what Python refuses`, () => {
    const bad = CASES.filter((one) => one.codec === codec && one.error);
    assert.ok(bad.length >= 3);
    for (const { shape, axis, values, error } of bad) {
      assert.throws(
        () => encode(codec, floatsOf(values), shape, axis),
        (/** @type {Error} */ thrown) => thrown.constructor === errors[error],
        `${floatsOf(values)}: ${error}`,
      );
    }
  });

  test(`${codec} writes numpy's bytes for numbers of every magnitude`, () => {
    const { count, step, limit, columns, axis, payload } = SWEEPS.find((one) => one.codec === codec);
    const bits = Uint32Array.from({ length: count }, (_, i) => Number((BigInt(i) * BigInt(step)) & 0xffffffffn));
    const within = new Float32Array(bits.buffer).filter((value) => Math.abs(value) <= Math.fround(limit));
    const values = within.slice(0, within.length - (within.length % columns));
    assert.deepEqual(heldLike(encode(codec, values, [values.length / columns, columns], axis), payload), payload);
  });

  test(`${codec} says how long payloads are`, () => {
    for (const { shape, axis, size } of SIZES.filter((one) => one.codec === codec)) {
      assert.equal(encodedBytes(codec, shape, axis), size, `[${shape}] along ${axis}`);
    }
  });
}

test("a view into a larger buffer is encoded like a copy", () => {
  const all = Float32Array.from({ length: 20 }, (_, i) => i / 3 - 2);
  for (const codec of Object.keys(CODECS)) {
    assert.deepEqual(encode(codec, all.subarray(3, 15), [3, 4], 1), encode(codec, all.slice(3, 15), [3, 4], 1));
  }
});

test("a wrong codec, shape, axis or number of values is refused", () => {
  const values = new Float32Array(6);
  const refused = (call, text) => assert.throws(call, (error) => error instanceof errors.CodecError && error.message.includes(text));
  refused(() => encode("fp64", values, [2, 3], 1), "fp32, fp16, bf16, int8, int4");
  refused(() => encode("toString", values, [2, 3], 1), "unknown codec");
  refused(() => encode("fp32", values, [2, 4], 1), "6 values");
  refused(() => encode("fp32", new Float32Array(0), [0], 0), "above 0");
  refused(() => encode("int8", values, [1, 2, 3], 1), "axis 1");
  refused(() => encode("int8", values, [2, 3]), "axis");
  refused(() => encodedBytes("int4", [1, 2, 3], 1), "axis 1");
});
