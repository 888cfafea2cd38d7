import assert from "node:assert/strict";
import test from "node:test";

import { Plan } from "../page/plan.js";

const SERVED = {
  name: "vit",
  manifest: "f00d",
  shapes: [[3, 32, 32], [64, 64], [64, 64], [10]],
  channelAxes: [0, 1, 1, 0],
  sliceBytes: [1000, 1000, 1000],
  entries: [0, 1, 2],
  codecs: ["fp32", "fp16", "int8", "int4", "rgb8"],
  calibration: null,
  calibrated: [],
};

/** A model with tables at cut 1, where int8 has 4 kB. */
const CALIBRATED = {
  ...SERVED,
  codecs: [...SERVED.codecs, "transform-990"],
  calibration: { cuts: [{ cut: 1, tables: { sha256: "ab", sizeBytes: 9 }, qualities: { "transform-990": 0 } }], measured: [] },
  calibrated: [{ cut: 1, codec: "transform-990", payloadBytes: 100, agreement: 0.995 }],
};
const BY_TABLES = { cut: 1, codec: "transform-990" };
const PHASES = { preprocess: 1, head: 0, encode: 0, network: 0, server: 0 };

/** A server in virtual time: a round trip of 5 ms, so many ms per kB, so many for each slice that is left. */
function world({ msPerKb = 0, serverMs = 3, served = SERVED } = {}) {
  const made = { nowMs: 0, msPerKb, serverMs, asked: [], gone: false };
  const reply = (cut) => ({
    timings: { admissionMs: 0, queueMs: 0, executionMs: made.serverMs * (3 - cut), totalMs: made.serverMs * (3 - cut), rowsPerStep: [1] },
    load: [],
  });
  made.sent = ({ cut }, sizeBytes) => {
    const tookMs = 5 + (made.msPerKb * (sizeBytes + 300)) / 1e3 + made.serverMs * (3 - cut);
    made.nowMs += tookMs;
    return { sizeBytes, tookMs, reply: reply(cut) };
  };
  made.asker = {
    server: { describe: async () => void (made.nowMs += 5) },
    send: async (served, choice, shape, payload, { patienceMs }) => {
      made.patienceMs = patienceMs;
      if (made.gone) throw new Error("gone");
      made.asked.push(choice);
      return made.sent(choice, payload.length);
    },
  };
  made.plan = async (slicesMs) => {
    const plan = new Plan(served, slicesMs, made.asker, () => made.nowMs);
    await plan.join();
    return plan;
  };
  return made;
}

test("a tab that joins sends a few small messages and the smallest activation, no image", async () => {
  const made = world();
  await made.plan([1, 1, 1]);
  assert.deepEqual(made.asked, [{ cut: 0, codec: "int8" }]); // int4 would be smaller, and errs too often
});

test("slow slices stay on the server, a slow link keeps all of them here", async () => {
  assert.equal((await world().plan([90, 90, 90])).decide().cut, 0);
  assert.equal((await world({ msPerKb: 100 }).plan([90, 90, 90])).decide().cut, 3);
});

test("only slices that are loaded may run here", async () => {
  const plan = await world({ msPerKb: 1000, serverMs: 100 }).plan([1]);
  assert.equal(plan.decide().cut, 0);
});

test("a line says what is expected, of the choice and of its rivals", async () => {
  const plan = await world().plan([90, 90, 90]);
  assert.equal(plan.why, "");
  plan.decide();
  assert.equal(plan.why, "no slice here, rgb8: 14 ms expected; all slices here 270 ms");
});

test("when the link becomes slow the choice follows the answers", async () => {
  const made = world();
  const plan = await made.plan([20, 20, 20]);
  const first = plan.decide();
  assert.equal(first.cut, 0);
  made.msPerKb = 100;
  for (let image = 0; image < 4; image++) plan.learn(first, { phases: PHASES, slicesMs: [], sent: made.sent(first, 3072) });
  assert.equal(plan.decide().cut, 3);
});

test("what gains little is no reason to move", async () => {
  const made = world();
  const plan = await made.plan([5, 5, 5]);
  const first = plan.decide();
  assert.equal(first.cut, 0);
  for (let image = 0; image < 9; image++) plan.learn({ cut: 3, codec: "fp32" }, { phases: PHASES, slicesMs: [4.4, 4.4, 4.4], sent: null });
  assert.deepEqual(plan.decide(), first);
  for (let image = 0; image < 9; image++) plan.learn({ cut: 3, codec: "fp32" }, { phases: PHASES, slicesMs: [1, 1, 1], sent: null });
  assert.equal(plan.decide().cut, 3);
});

test("who runs all slices asks how the server is, every few seconds, and goes on when nobody answers", async () => {
  const made = world({ serverMs: 50 });
  const plan = await made.plan([5, 5, 5]);
  assert.equal(plan.decide().cut, 3);
  await plan.keepUp();
  assert.equal(made.asked.length, 1); // that of joining
  made.nowMs += 5000;
  made.serverMs = 0.1;
  await plan.keepUp();
  assert.equal(made.asked.length, 2);
  assert.equal(plan.decide().cut, 0);
  plan.present = { cut: 3, codec: "fp32" };
  [made.nowMs, made.gone] = [made.nowMs + 5000, true];
  await plan.keepUp();
  assert.ok(made.patienceMs <= 1000, "the next image waits for it");
});

test("a server that tells of all its entries is believed, the idle one preferred", async () => {
  const made = world();
  const plan = await made.plan([5, 50, 50]);
  assert.equal(plan.decide().cut, 0);
  const sent = made.sent({ cut: 0 }, 3072);
  sent.reply.load = [[0, 100, 9], [1, 0, 6], [2, 100, 3]];
  plan.learn({ cut: 0, codec: "rgb8" }, { phases: PHASES, slicesMs: [], sent });
  assert.equal(plan.decide().cut, 1);
});

test("on a slow link a codec with tables is taken where the cut has some", async () => {
  const slow = { msPerKb: 20, serverMs: 20 };
  const slices = [5, 90, 90];
  assert.deepEqual((await world({ ...slow, served: CALIBRATED }).plan(slices)).decide(), BY_TABLES);
  assert.notDeepEqual((await world(slow).plan(slices)).decide(), BY_TABLES);
  const without = { ...CALIBRATED, calibration: { cuts: [], measured: [] } };
  assert.notDeepEqual((await world({ ...slow, served: without }).plan(slices)).decide(), BY_TABLES);
});

test("a codec with tables that errs too often is not taken", async () => {
  const served = { ...CALIBRATED, calibrated: [{ ...CALIBRATED.calibrated[0], agreement: 0.98 }] };
  assert.notDeepEqual((await world({ msPerKb: 20, serverMs: 20, served }).plan([5, 90, 90])).decide(), BY_TABLES);
});

test("joining sends no activation by tables, which nobody has fetched yet", async () => {
  const made = world({ served: CALIBRATED });
  await made.plan([1, 1, 1]);
  assert.deepEqual(made.asked, [{ cut: 0, codec: "int8" }]);
});

/** A tab that took the codec with tables; `learn` tells it of answers. */
async function byTables() {
  const measured = [...CALIBRATED.calibrated, { cut: 0, codec: "rgb8", payloadBytes: 99, agreement: 1 }, { cut: 1, codec: "fp32", payloadBytes: 99, agreement: 1 }];
  const made = world({ msPerKb: 20, serverMs: 20, served: { ...CALIBRATED, calibrated: measured } });
  const plan = await made.plan([5, 90, 90]);
  assert.deepEqual(plan.decide(), BY_TABLES);
  const learn = (choice, sizeBytes, encode = 0) => plan.learn(choice, { phases: { ...PHASES, encode }, slicesMs: [], sent: made.sent(choice, sizeBytes) });
  return { plan, learn };
}

test("payloads by tables that are larger than calibration expected are expected larger; sizes of other codecs are exact", async () => {
  const { plan, learn } = await byTables();
  learn({ cut: 0, codec: "rgb8" }, 3072);
  learn({ cut: 1, codec: "fp32" }, 16384);
  assert.equal(plan.sizeRatio, 1);
  learn(BY_TABLES, 200);
  assert.ok(Math.abs(plan.sizeRatio - 1.1) < 1e-12);
  assert.deepEqual(plan.decide(), BY_TABLES);
  for (let image = 0; image < 9; image++) learn(BY_TABLES, 20_000);
  assert.notDeepEqual(plan.decide(), BY_TABLES);
});

test("encoding by tables that is slow here is left", async () => {
  const { plan, learn } = await byTables();
  for (let image = 0; image < 5; image++) learn(BY_TABLES, 100, 900);
  assert.notDeepEqual(plan.decide(), BY_TABLES);
});
