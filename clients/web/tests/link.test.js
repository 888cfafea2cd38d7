import assert from "node:assert/strict";
import test from "node:test";

import { LinkEstimate } from "../page/link.js";
import { vectors } from "./helpers/vectors.js";

const near = (found, wanted, what) => assert.ok(Math.abs(found - wanted) <= 1e-6 * Math.abs(wanted) + 1e-6, `${what}: ${found} is not ${wanted}`);

test("the same exchanges teach the same rate and round trip as Python's", () => {
  vectors("link").forEach(({ small, exchanges, found }, number) => {
    const link = new LinkEstimate();
    small.forEach((tookMs) => link.small(tookMs));
    exchanges.forEach((exchange, at) => {
      link.answered(...exchange);
      near(link.view.bytesPerS, found[at][0], `case ${number}, rate after ${at}`);
      near(link.view.roundTripMs, found[at][1], `case ${number}, round trip after ${at}`);
    });
  });
});

test("before the first answer the link takes what small messages took", () => {
  const link = new LinkEstimate();
  [9, 4, 5].forEach((tookMs) => link.small(tookMs));
  assert.equal(link.known, false);
  assert.equal(link.view.roundTripMs, 5);
});
