/** onnxruntime-web, from this page's own server; only who runs slices here needs it. */

import { ConfigError } from "../src/errors.js";

/** @typedef {"processor" | "gpu"} Place where slices run */

const MOST_THREADS = 4;
const MODULES = Object.freeze({ processor: "ort.wasm.min.mjs", gpu: "ort.webgpu.min.mjs" });

/**
 * How sessions are made. A page runs one row at a time; with that known the integers of shapes are worked out when the
 * slice is loaded, else they would be left to the processor. That nothing is left to it is what the last line demands:
 * a slice of which it is not true is not loaded.
 */
const OPTIONS = Object.freeze({
  processor: {},
  gpu: {
    executionProviders: ["webgpu"],
    freeDimensionOverrides: { batch: 1 },
    extra: { session: { disable_cpu_ep_fallback: "1" } },
  },
});

/**
 * @param {Place} place
 * @returns {Promise<{runtime: any, options: object}>} the module, and the options of `InferenceSession.create`
 * @throws {ConfigError} the server does not have it, or the browser has no such place
 */
export async function onnxRuntime(place) {
  if (place === "gpu" && !(await (/** @type {any} */ (navigator).gpu?.requestAdapter()))) {
    throw new ConfigError("this browser gives no GPU to this page (WebGPU); let slices run on the processor");
  }
  const folder = new URL("../ort/", import.meta.url);
  try {
    const runtime = await import(new URL(MODULES[place], folder).href);
    runtime.env.wasm.wasmPaths = folder.href;
    // Browsers give threads to isolated pages only: those of https or localhost, by the headers of our server.
    runtime.env.wasm.numThreads = crossOriginIsolated && place === "processor" ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    return { runtime, options: OPTIONS[place] };
  } catch (thrown) {
    throw new ConfigError(`onnxruntime-web is not at ${folder.pathname} (${thrown}); choose no slices here, or run make web on the server`);
  }
}
