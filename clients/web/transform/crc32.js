/** CRC-32 as zlib has it. */

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = (byte >>> 1) ^ (byte & 1 ? 0xedb88320 : 0);
  return byte;
});

/**
 * @param {Uint8Array} bytes
 * @returns {number} below 2^32
 */
export function crc32(bytes) {
  let found = -1;
  for (let i = 0; i < bytes.length; i++) found = TABLE[(found ^ bytes[i]) & 0xff] ^ (found >>> 8);
  return ~found >>> 0;
}
