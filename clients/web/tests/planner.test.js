import assert from "node:assert/strict";
import test from "node:test";

import { ConfigError } from "../src/errors.js";
import { choose, estimateAll } from "../src/planner.js";
import { camel, vectors } from "./helpers/vectors.js";

const CASES = vectors("planner").map((one) => camel(one));

const planned = ({ facts, device, link, server, goal }) => estimateAll(facts, device, link, server, goal);

function close(found, wanted, what) {
  assert.ok(Math.abs(found - wanted) <= 1e-9 * Math.abs(wanted), `${what}: ${found} is not ${wanted}`);
}

test("every cut and codec has Python's time, and Python's reason where it is refused", () => {
  assert.ok(CASES.length >= 120);
  CASES.forEach((one, number) => {
    const found = planned(one);
    assert.deepEqual(
      found.map(({ choice, refused }) => [choice.cut, choice.codec, refused]),
      one.estimates.map(([cut, codec, , refused]) => [cut, codec, refused]),
      `case ${number}`,
    );
    found.forEach((estimate, at) => close(estimate.totalMs, one.estimates[at][2], `case ${number}, estimate ${at}`));
  });
});

test("the choice is Python's, in all its parts", () => {
  CASES.forEach((one, number) => {
    const best = choose(planned(one), one.goal);
    if (one.chosen === null) return assert.equal(best, null, `case ${number}`);
    const { cut, codec, ...figures } = one.chosen;
    assert.deepEqual(best.choice, { cut, codec }, `case ${number}`);
    for (const [name, figure] of Object.entries(figures)) close(best[name], figure, `case ${number}, ${name}`);
  });
});

test("a goal out of range is refused", () => {
  for (const goal of [{ jouleMs: -1 }, { serverMs: -1 }, { margin: 1 }, { margin: -0.1 }, { agreement: 1.1 }, { agreement: NaN }]) {
    assert.throws(() => planned({ ...CASES[0], goal }), ConfigError);
  }
});
