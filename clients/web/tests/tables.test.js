import assert from "node:assert/strict";
import test from "node:test";

import { Tables } from "../page/tables.js";
import { encode } from "../src/codecs.js";
import { ServerError, ShardError } from "../src/errors.js";
import { base64Of, bytesOf, floatsOf, vectors } from "./helpers/vectors.js";

const { tables: FILES, activations: ACTIVATIONS } = vectors("transform");
const [A_MAP, PLANES] = ["a map", "planes"].map((name) => FILES.find((one) => one.name === name));
const CHOICE = { cut: 1, codec: "transform-990" };

/** A model whose cut 1 has these tables. */
function modelOf({ file, sha256, shape }, quality = 1) {
  const tables = { sha256, sizeBytes: bytesOf(file).length };
  const cuts = [{ cut: 1, tables, qualities: { "transform-990": quality } }];
  return { shapes: [[3, 8, 8], shape, shape, [10]], calibration: { cuts, measured: [] } };
}

/** A server that has some files; what it was asked is kept. */
function serverOf(...files) {
  const asked = [];
  const file = async (route, { sha256 }, progress) => {
    asked.push(`${route}/${sha256}`);
    const found = files.find((one) => one.sha256 === sha256);
    if (found === undefined) throw new ServerError("the server answered 404");
    const bytes = bytesOf(found.file);
    progress(bytes.length);
    return bytes;
  };
  return { file, asked };
}

test("tables are fetched when a codec needs them, once, and code what Python codes", async () => {
  const [server, model] = [serverOf(A_MAP), modelOf(A_MAP)];
  const told = [];
  const tables = new Tables((share) => told.push(share));
  assert.equal(await tables.need(server, model, { cut: 1, codec: "int8" }), null);
  assert.equal(await tables.need(server, model, { ...CHOICE, cut: 2 }), null);
  assert.deepEqual([server.asked, told], [[], []]);
  const found = await tables.need(server, model, CHOICE);
  assert.deepEqual(await tables.need(server, model, CHOICE), found);
  assert.deepEqual(server.asked, [`/shard/${A_MAP.sha256}`]);
  assert.deepEqual(told, [0, 1, null]);
  const { values, payload } = ACTIVATIONS.find((one) => one.tables === "a map" && one.quality === 1);
  assert.equal(base64Of(encode(CHOICE.codec, floatsOf(values), A_MAP.shape, 2, found)), payload);
});

test("a model that was calibrated again has its new tables fetched, and the old ones are forgotten", async () => {
  const server = serverOf(A_MAP, PLANES);
  const tables = new Tables();
  const [before, after] = [modelOf(A_MAP), modelOf(PLANES)];
  await tables.need(server, before, CHOICE);
  tables.keep(before);
  await tables.need(server, before, CHOICE);
  assert.equal(server.asked.length, 1);
  tables.keep(after);
  const { boundary } = await tables.need(server, after, CHOICE);
  assert.equal(boundary.tables.digest, PLANES.sha256);
  assert.deepEqual([...tables.known.keys()], [PLANES.sha256]);
  tables.keep({ ...after, calibration: null });
  assert.equal(tables.known.size, 0);
});

test("tables that are gone, altered, of another activation or without the quality are refused, and nothing stays", async () => {
  const model = modelOf(A_MAP);
  const altered = { ...A_MAP, file: PLANES.file };
  for (const [server, of, text] of [
    [serverOf(), model, /connect again/],
    [serverOf(altered), model, /digest .* load the page again/],
    [serverOf(A_MAP), { ...model, shapes: [[3, 8, 8], [9, 9], [10]] }, /are of activations \[3,5,5\], the model has \[9,9\]/],
    [serverOf(A_MAP), modelOf(A_MAP, 3), /have 3 qualities, the index names quality 3/],
  ]) {
    const told = [];
    const tables = new Tables((share) => told.push(share));
    await assert.rejects(tables.need(server, of, CHOICE), (error) => error instanceof ShardError && text.test(error.message));
    assert.deepEqual([tables.known.size, told.at(-1)], [0, null]);
  }
});
