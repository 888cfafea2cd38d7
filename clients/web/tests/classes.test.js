import assert from "node:assert/strict";
import test from "node:test";

import { softmax, topClasses } from "../src/classes.js";
import { floatsOf, vectors } from "./helpers/vectors.js";

test("the best classes are Python's, ties included", () => {
  for (const { logits, k, best } of vectors("oip").top_k) assert.deepEqual(topClasses(floatsOf(logits), k), best);
});

test("probabilities add up, keep the order and do not overflow", () => {
  const found = softmax(Float32Array.of(1000, 999, -1000, 1000));
  assert.ok(Math.abs(found.reduce((a, b) => a + b) - 1) < 1e-12);
  assert.ok(found[0] === found[3] && found[0] > found[1] && found[1] > found[2] && found[2] >= 0);
});
