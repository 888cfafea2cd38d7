import assert from "node:assert/strict";
import test from "node:test";

import { ShardError } from "../src/errors.js";
import { calibrationOf } from "../transform/calibration.js";
import { vectors } from "./helpers/vectors.js";

const { read: READ, damaged: DAMAGED } = vectors("calibration");

test("an index of Python's is read: cuts with their tables, and what was measured", () => {
  assert.equal(READ.length, 2);
  for (const { manifest, text, cuts, measured } of READ) {
    const found = calibrationOf(text, manifest);
    assert.deepEqual(
      found.cuts,
      cuts.map(({ cut, sha256, size_bytes, qualities }) => ({ cut, tables: { sha256, sizeBytes: size_bytes }, qualities: Object.fromEntries(qualities) })),
    );
    assert.deepEqual(found.measured, measured.map(([cut, codec, payloadBytes, agreement]) => ({ cut, codec, payloadBytes, agreement })));
  }
});

test("an index that Python refuses is refused, with the remedy", () => {
  assert.ok(DAMAGED.length > 25);
  for (const text of DAMAGED) {
    const refused = (error) => error instanceof ShardError && error.message.includes("calibrate the model again");
    assert.throws(() => calibrationOf(text, READ[0].manifest), refused, `${text} was taken`);
  }
});

test("an index of another manifest than is served is refused", () => {
  assert.throws(() => calibrationOf(READ[0].text, "beef".repeat(16)), (error) => error instanceof ShardError && /f00df00df00d, it serves beefbeefbeef/.test(error.message));
});
