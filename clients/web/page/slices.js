/** The slices that are loaded in this tab, and where they run. */

import { ConfigError, HeadTailError } from "../src/errors.js";
import { loadHead } from "../src/head.js";
import { onnxRuntime } from "./runtime.js";

/** Calls one after another; none while the head runs. */
export class Slices {
  /** @param {(share: number | null) => void} progress told how much of what is fetched is there; null: nothing is fetched */
  constructor(progress) {
    this.progress = progress;
    /** @type {import("../src/head.js").Head | null} null: none is loaded */
    this.head = null;
    /** @type {import("./runtime.js").Place} */
    this.place = "processor";
  }

  /**
   * Sees to it that so many slices can run at a place, as far as the server has them.
   * @param {import("../src/server.js").Server} server
   * @param {import("../src/server.js").Served} model
   * @param {number} count
   * @param {import("./runtime.js").Place} place
   * @throws {ConfigError} they cannot run there
   */
  async need(server, model, count, place) {
    if (place !== this.place) await this.release();
    this.place = place;
    const loaded = this.head?.most ?? 0;
    if (loaded >= count) return;
    const slices = (await server.headSlices(model)).slice(0, count);
    if (slices.length <= loaded) return;
    const total = slices.reduce((all, one) => all + one.sizeBytes, 0);
    let before = 0;
    this.progress(0);
    try {
      const { runtime, options } = await onnxRuntime(place);
      const fetched = async (/** @type {import("../src/head.js").HeadSlice} */ slice) => {
        const file = await server.file("/shard", slice, (bytes) => this.progress((before + bytes) / total));
        before += file.length;
        return file;
      };
      const head = await loadHead(runtime, slices, fetched, options);
      await this.release();
      this.head = head;
    } catch (thrown) {
      if (place === "processor" || thrown instanceof HeadTailError) throw thrown;
      throw new ConfigError(`a slice cannot run on the GPU as a whole (${thrown}); let slices run on the processor`);
    } finally {
      this.progress(null);
    }
  }

  /** Gives their memory back. */
  async release() {
    const before = this.head;
    this.head = null;
    await before?.release();
  }
}
