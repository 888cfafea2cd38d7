import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";

import { ConfigError, ShardError } from "../src/errors.js";
import { loadHead } from "../src/head.js";

/** A runtime whose files are programs of one byte: each adds that number to every value. */
function runtime() {
  const loaded = new Set();
  class Tensor {
    constructor(type, data, dims) {
      Object.assign(this, { type, data, dims });
    }
  }
  const create = async (file) => {
    const session = {
      run: async ({ x }) => ({ y: new Tensor("float32", x.data.map((value) => value + file[0]), x.dims) }),
      release: async () => void loaded.delete(session),
    };
    loaded.add(session);
    return session;
  };
  return { Tensor, InferenceSession: { create }, loaded };
}

const sliceOf = (byte) => ({
  sha256: createHash("sha256").update(Uint8Array.of(byte)).digest("hex"),
  sizeBytes: 1,
  input: "x",
  output: "y",
  inputShape: [1, 2],
  outputShape: [1, 2],
  byte,
});
const SLICES = [sliceOf(1), sliceOf(10), sliceOf(100)];
const fetchFile = async ({ byte }) => Uint8Array.of(byte);
const INPUT = Float32Array.of(0.5, -0.5);

test("slices run one behind another, up to the cut", async () => {
  const head = await loadHead(runtime(), SLICES, fetchFile);
  assert.equal(head.most, 3);
  for (const [cut, added] of [[0, 0], [1, 1], [2, 11], [3, 111]]) {
    const { values, shape, slicesMs } = await head.run(INPUT, [1, 2], cut);
    assert.deepEqual([values, shape, slicesMs.length], [INPUT.map((value) => value + added), [1, 2], cut]);
  }
});

test("a file that is not the index's is refused, and what was loaded is given back", async () => {
  for (const wrong of [Uint8Array.of(11), Uint8Array.of(10, 10), new Uint8Array()]) {
    const made = runtime();
    const fetched = async (slice) => (slice.byte === 10 ? wrong : fetchFile(slice));
    await assert.rejects(loadHead(made, SLICES, fetched), ShardError);
    assert.equal(made.loaded.size, 0);
  }
});

test("a rehearsal tells the time of every slice that is loaded", async () => {
  const head = await loadHead(runtime(), SLICES.slice(0, 2), fetchFile);
  const slicesMs = await head.rehearse();
  assert.equal(slicesMs.length, 2);
  assert.ok(slicesMs.every((ms) => ms >= 0));
});

test("the memory of all slices is given back", async () => {
  const made = runtime();
  const head = await loadHead(made, SLICES, fetchFile);
  assert.equal(made.loaded.size, 3);
  await head.release();
  assert.equal(made.loaded.size, 0);
});

test("a cut or an input that the head does not have is refused", async () => {
  const head = await loadHead(runtime(), SLICES, fetchFile);
  for (const cut of [-1, 4, 1.5]) await assert.rejects(head.run(INPUT, [1, 2], cut), ConfigError);
  await assert.rejects(head.run(INPUT, [2, 1], 1), ConfigError);
  await assert.rejects(head.run(INPUT.slice(1), [1, 2], 1), ConfigError);
});

test("a slice that gives something else than the index says is refused", async () => {
  for (const change of [{ outputShape: [2, 1] }, { output: "z" }]) {
    const head = await loadHead(runtime(), [{ ...SLICES[0], ...change }], fetchFile);
    await assert.rejects(head.run(INPUT, [1, 2], 1), ShardError);
  }
});
