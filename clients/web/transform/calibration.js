/** What a server says of calibration, as slicer/core/protocol/calibration_index.py writes it. */

import { ShardError, shown } from "../src/errors.js";

/**
 * @typedef {object} Calibration
 * @property {readonly CalibratedCut[]} cuts those with tables
 * @property {readonly import("../src/planner.js").Measured[]} measured every codec that was tried
 *
 * @typedef {object} CalibratedCut
 * @property {number} cut
 * @property {{sha256: string, sizeBytes: number}} tables their file
 * @property {Readonly<Record<string, number>>} qualities by codec, the index of the tables' step
 */

const FORMAT = 1;
const QUALITIES = 256;

/**
 * @param {string} text
 * @param {string} manifest digest of what is served
 * @returns {Calibration}
 * @throws {ShardError} it is no index, of another version or of another model, or contradicts itself
 */
export function calibrationOf(text, manifest) {
  let document, found;
  try {
    document = JSON.parse(text);
    found = checked(document);
  } catch (error) {
    throw new ShardError(
      `what the server says of calibration is no valid index (${/** @type {Error} */ (error).message}); calibrate the model ` +
        "again and restart the server: headtail slice MODEL --export DIR --calibrate IMAGES",
    );
  }
  if (document.manifest !== manifest) {
    throw new ShardError(
      `the server's calibration is of manifest ${document.manifest.slice(0, 12)}, it serves ${manifest.slice(0, 12)}; calibrate ` +
        "the model again and restart the server",
    );
  }
  return found;
}

/**
 * The codecs with tables that a cut has.
 * @param {Calibration | null | undefined} calibration
 * @param {number} cut
 * @returns {string[]}
 */
export function codecsAt(calibration, cut) {
  return Object.keys(calibration?.cuts.find((one) => one.cut === cut)?.qualities ?? {});
}

/**
 * @param {any} document
 * @returns {Calibration}
 */
function checked(document) {
  if (document.format !== FORMAT) throw new Error(`it is not of format ${FORMAT}`);
  digest(document.manifest);
  for (const name of ["images", "held_out"]) count(document[name], name);
  const cuts = document.cuts.map(cutOf);
  if (new Set(cuts.map((/** @type {CalibratedCut} */ one) => one.cut)).size < cuts.length) throw new Error("it must name each cut once");
  return { cuts, measured: document.measured.map(measuredOf) };
}

/**
 * @param {any} told
 * @returns {CalibratedCut}
 */
function cutOf({ cut, tables, qualities, most_bytes }) {
  if (count(cut, "cut") < 1) throw new Error("cut 0 has no tables");
  count(most_bytes, "most_bytes");
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(tables.file)) throw new Error(`file ${shown(tables.file)} has a bad name`);
  if (typeof qualities !== "object" || Array.isArray(qualities)) throw new Error("qualities have no names");
  for (const [name, quality] of Object.entries(qualities)) {
    if (count(quality, name) >= QUALITIES) throw new Error(`${name} has the quality ${quality}`);
  }
  return { cut, tables: { sha256: digest(tables.sha256), sizeBytes: count(tables.size_bytes, "size_bytes") }, qualities };
}

/**
 * @param {any} told
 * @returns {import("../src/planner.js").Measured}
 */
function measuredOf([cut, codec, ...numbers]) {
  const [payloadBytes, , , agreement] = numbers;
  if (typeof codec !== "string" || numbers.length !== 4 || !numbers.every(Number.isFinite) || payloadBytes < 0) {
    throw new Error(`what was measured of ${shown(codec)} must be four numbers`);
  }
  return { cut: count(cut, "cut"), codec, payloadBytes, agreement };
}

/**
 * @param {unknown} value
 * @param {string} what
 * @returns {number}
 */
function count(value, what) {
  if (!Number.isSafeInteger(value) || /** @type {number} */ (value) < 0) throw new Error(`${what} is ${shown(value)}, no count`);
  return /** @type {number} */ (value);
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function digest(value) {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) throw new Error(`${shown(value)} is no sha256 digest`);
  return value;
}
