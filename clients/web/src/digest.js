/** The digest by which files are named. */

/**
 * SHA-256 of bytes, in hex.
 * @param {Uint8Array} bytes
 * @returns {Promise<string | null>} null: browsers have digests on https and localhost only
 */
export async function sha256Of(bytes) {
  if (globalThis.crypto?.subtle === undefined) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {any} */ (bytes)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
