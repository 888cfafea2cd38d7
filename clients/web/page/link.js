/**
 * What a device knows of its link, learnt from its own requests; slicer/core/planning/link_estimate.py says how and why.
 * Here one request is under way at a time, so nothing waits for the link, and answers are taken for small ones.
 */

/** Requests that are remembered, and for how long. */
const WINDOW = 16;
const WINDOW_MS = 60_000;

/** So many of the newest must miss by more than a quarter, all on one side, before the older ones are forgotten. */
const CHANGED_AFTER = 3;
const CHANGED_SHARE = 0.25;

/** Sizes that differ by less than this share of the larger one say nothing about the rate. */
const APART = 0.25;

/** A line is good where the upper quartile of its slopes is at most so many times the lower one. */
const CLEAR = 2;

const FASTEST = 10e9 / 8; // bytes per second; a faster link is as good as none
const LEAST_MS = 1e-3; // no exchange takes less

/** @typedef {{atMs: number, sizeBytes: number, tookMs: number}} Seen */

/** All times are of one clock, in milliseconds. */
export class LinkEstimate {
  /** @type {Seen[]} */
  #seen = [];
  /** @type {number[]} */
  #small = [];
  /** @type {number | null} the round trip, of small messages or of the last good line */
  #baseMs = null;
  #roundTripMs = 0;
  /** @type {number | null} */
  #msPerByte = null;

  /** Whether anything was learnt of the rate. */
  get known() {
    return this.#msPerByte !== null;
  }

  /**
   * What the planner reckons with; an infinitely fast link until a request was answered.
   * @returns {{bytesPerS: number, roundTripMs: number}}
   */
  get view() {
    const rate = this.#msPerByte === null ? FASTEST : 1e3 / this.#msPerByte;
    return { bytesPerS: Math.min(rate, FASTEST), roundTripMs: this.#roundTripMs };
  }

  /**
   * A small message and its small answer took so long, the server's time included.
   * @param {number} tookMs
   */
  small(tookMs) {
    this.#small.push(Math.max(tookMs, 0));
    this.#baseMs = this.#roundTripMs = median(this.#small);
  }

  /**
   * A request was answered.
   * @param {number} nowMs
   * @param {number} sizeBytes
   * @param {number} tookMs from sending to the answer, less what the server says it took
   */
  answered(nowMs, sizeBytes, tookMs) {
    this.#seen.push({ atMs: nowMs, sizeBytes, tookMs: Math.max(tookMs, LEAST_MS) });
    this.#seen = this.#seen.slice(-WINDOW).filter(({ atMs }) => atMs >= nowMs - WINDOW_MS);
    if (this.#msPerByte !== null && this.#seen.length > CHANGED_AFTER) {
      const newest = this.#seen.slice(-CHANGED_AFTER);
      const missed = newest.map((one) => one.tookMs / Math.max(this.#predictedMs(one.sizeBytes), 1e-3) - 1);
      if (Math.min(...missed) > CHANGED_SHARE || Math.max(...missed) < -CHANGED_SHARE) this.#seen = newest;
    }
    this.#fit();
  }

  /** @param {number} sizeBytes */
  #predictedMs(sizeBytes) {
    return this.#roundTripMs + (this.#msPerByte ?? 0) * sizeBytes;
  }

  #fit() {
    const seen = this.#seen;
    const sizes = seen.map(({ sizeBytes }) => sizeBytes);
    const apart = Math.max(...sizes) - Math.min(...sizes);
    const least = 1e3 / FASTEST;
    if (apart > APART * Math.max(...sizes)) {
      // Only pairs that are far apart: the noise of two near ones is larger than what lies between them.
      const slopes = seen.flatMap((one, at) =>
        seen
          .slice(at + 1)
          .filter((other) => Math.abs(other.sizeBytes - one.sizeBytes) > apart / 2)
          .map((other) => (other.tookMs - one.tookMs) / (other.sizeBytes - one.sizeBytes)),
      );
      if (slopes.length >= 3 && clear(slopes)) {
        const slope = median(slopes);
        this.#msPerByte = Math.max(slope, least);
        this.#baseMs = this.#roundTripMs = Math.max(median(seen.map((one) => one.tookMs - slope * one.sizeBytes)), 0);
        return;
      }
    }
    const typicalMs = median(seen.map(({ tookMs }) => tookMs));
    // Nothing tells the two apart but what a small message took; that is no longer than a request takes.
    const baseMs = this.#baseMs === null ? typicalMs / 2 : Math.min(this.#baseMs, 0.95 * typicalMs);
    this.#msPerByte = Math.max(median(seen.map((one) => (one.tookMs - baseMs) / one.sizeBytes)), least);
    this.#roundTripMs = baseMs;
  }
}

/**
 * Whether they agree on more than their sign.
 * @param {readonly number[]} slopes
 */
function clear(slopes) {
  const [lower, upper] = [quantile(slopes, 0.25), quantile(slopes, 0.75)];
  return lower > 0 && upper <= CLEAR * lower;
}

/**
 * The middle one, or what lies between the two in the middle.
 * @param {readonly number[]} numbers at least one
 */
export function median(numbers) {
  return quantile(numbers, 0.5);
}

/**
 * @param {readonly number[]} numbers
 * @param {number} share
 */
function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return below + (above - below) * (place - Math.floor(place));
}
