/** Interleaved rANS, its encoder; slicer/core/codecs/transform/rans.py says how a message is laid out, and decodes it. */

const PRECISION = 4096; // what the frequencies of a table sum to
const LOWEST = 2 ** 16; // states lie from here up to 2^32
const FULL = 2 ** 32 / PRECISION; // a state from frequency * FULL on gives a word away before the symbol goes in

/**
 * Symbols, given by the start and frequency of each, as words: two of each lane's state, then what left the lanes.
 * @param {Uint16Array} starts in the order in which the decoder asks for them
 * @param {Uint16Array} frequencies
 * @param {Uint16Array} seeds [lanes], the bits that the lanes begin with; lanes are a power of 2
 * @returns {Uint16Array}
 */
export function encode(starts, frequencies, seeds) {
  const lanes = seeds.length;
  const states = Uint32Array.from(seeds, (seed) => LOWEST + seed);
  const words = new Uint16Array(2 * lanes + starts.length); // a symbol drives out one word at most
  let at = words.length;
  // The decoder runs the other way, so both symbols and words go from the last to the first.
  for (let i = starts.length - 1; i >= 0; i--) {
    const lane = i & (lanes - 1);
    const frequency = frequencies[i];
    let state = states[lane];
    if (state >= frequency * FULL) {
      words[--at] = state; // its lower half
      state >>>= 16;
    }
    const quotient = Math.floor(state / frequency); // exact: float64 holds both, and 1 / frequency is far above its error
    states[lane] = quotient * PRECISION + (state - quotient * frequency) + starts[i];
  }
  at -= 2 * lanes;
  states.forEach((state, lane) => words.set([state, state >>> 16], at + 2 * lane));
  return words.subarray(at);
}

/**
 * Where each symbol begins in its table.
 * @param {Uint16Array} frequencies [tables, symbols]
 * @param {number} symbols
 * @returns {Uint16Array} of the same size
 */
export function startsOf(frequencies, symbols) {
  const starts = new Uint16Array(frequencies.length);
  for (let i = 0; i < starts.length; i++) starts[i] = i % symbols ? starts[i - 1] + frequencies[i - 1] : 0;
  return starts;
}
