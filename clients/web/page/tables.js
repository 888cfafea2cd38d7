/** The tables of codecs that were calibrated for a cut: fetched when a cut's are first used, kept in this tab's memory. */

import { needsTables } from "../src/codecs.js";
import { ServerError, ShardError } from "../src/errors.js";
import { product } from "../src/numbers.js";
import { BoundaryCodec } from "../transform/payload.js";
import { readTables } from "../transform/tables.js";

/** Activations of zeros that are analysed before the first image, which else would wait for the engine's compiler. */
const REHEARSALS = 2;

/** Calls one after another. */
export class Tables {
  /** @param {(share: number | null) => void} [progress] told how much of what is fetched is there; null: nothing is fetched */
  constructor(progress = () => {}) {
    this.progress = progress;
    /** @type {Map<string, BoundaryCodec>} by the digest of the file */
    this.known = new Map();
  }

  /**
   * What a choice needs to encode.
   * @param {import("../src/server.js").Server} server
   * @param {import("../src/server.js").Served} model
   * @param {import("../src/planner.js").Choice} choice
   * @returns {Promise<import("../src/codecs.js").Calibrated | null>} null: the choice needs no tables, or the model has none
   * @throws {ShardError} they cannot be had, or are not those of the model
   */
  async need(server, model, { cut, codec }) {
    const found = model.calibration?.cuts.find((one) => one.cut === cut);
    if (!needsTables(codec) || found === undefined) return null;
    const { sha256 } = found.tables;
    const boundary = this.known.get(sha256) ?? (await this.#fetched(server, found, model.shapes[cut]));
    this.known.set(sha256, boundary);
    return { boundary, qualities: found.qualities };
  }

  /**
   * Forgets all tables but those of a model.
   * @param {import("../src/server.js").Served} model
   */
  keep(model) {
    const named = model.calibration?.cuts.map(({ tables }) => tables.sha256) ?? [];
    for (const sha256 of this.known.keys()) if (!named.includes(sha256)) this.known.delete(sha256);
  }

  /**
   * @param {import("../src/server.js").Server} server
   * @param {import("../transform/calibration.js").CalibratedCut} calibrated
   * @param {readonly number[]} shape of the activation
   */
  async #fetched(server, { cut, tables: file, qualities }, shape) {
    this.progress(0);
    try {
      const tables = await readTables(await server.file("/shard", file, (bytes) => this.progress(bytes / file.sizeBytes)), file.sha256);
      if (String(tables.shape) !== String(shape)) {
        throw new ShardError(`the tables of cut ${cut} are of activations [${tables.shape}], the model has [${shape}]; calibrate the model again`);
      }
      const most = Math.max(...Object.values(qualities));
      if (most >= tables.steps.length) {
        throw new ShardError(`the tables of cut ${cut} have ${tables.steps.length} qualities, the index names quality ${most}; calibrate the model again`);
      }
      const boundary = new BoundaryCodec(tables);
      for (let run = 0; run < REHEARSALS; run++) boundary.analyse(new Float32Array(product(shape)));
      return boundary;
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      throw new ShardError(`the tables of cut ${cut} did not come (${error.message}); connect again: the model may have been calibrated again`);
    } finally {
      this.progress(null);
    }
  }
}
