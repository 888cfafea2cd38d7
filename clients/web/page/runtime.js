/** onnxruntime-web, from this page's own server; only who runs slices here needs it. */

import { ConfigError } from "../src/errors.js";

const MOST_THREADS = 4;

/** @throws {ConfigError} the server does not have it */
export async function onnxRuntime() {
  const folder = new URL("../ort/", import.meta.url);
  try {
    const runtime = await import(new URL("ort.wasm.min.mjs", folder).href);
    runtime.env.wasm.wasmPaths = folder.href;
    // Browsers give threads to isolated pages only: those of https or localhost, by the headers of our server.
    runtime.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    return runtime;
  } catch (thrown) {
    throw new ConfigError(`onnxruntime-web is not at ${folder.pathname} (${thrown}); choose no slices here, or run make web on the server`);
  }
}
