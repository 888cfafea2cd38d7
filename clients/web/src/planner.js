/**
 * Which cut and codec this device should use, by arithmetic over all of them; slicer/core/planning/cut_planner.py says what
 * is computed and why. Everything is in milliseconds. Pure functions over plain values.
 */

import { CODECS, IMAGE_CODECS, TRANSFORM_ENCODE_NS, encodedBytes, needsTables } from "./codecs.js";
import { ConfigError } from "./errors.js";
import { product, roundHalfEven } from "./numbers.js";

/** No device or link is planned to be busier than this. */
export const MOST_BUSY = 0.95;

/**
 * @typedef {object} ModelFacts what does not change while a model is served
 * @property {readonly (readonly number[])[]} shapes of the activation at the cuts 0..n
 * @property {readonly number[]} sliceBytes weights of each slice
 * @property {readonly number[]} entries cuts that the server takes
 * @property {readonly string[]} codecs that it takes, those of images at cut 0 among them
 * @property {readonly number[]} [channelAxes] of the activations; empty: the last axis of each
 * @property {number} [answerBytes] of the outputs that an answer carries; 0: classes, which come with the round trip
 * @property {readonly Measured[]} [calibrated] what calibration found of codecs at cuts
 *
 * @typedef {object} Measured
 * @property {number} cut
 * @property {string} codec
 * @property {number} payloadBytes the median
 * @property {number} agreement
 *
 * @typedef {object} DeviceView
 * @property {readonly number[]} slicesMs of each slice, batch 1
 * @property {number} [preprocessMs] of an image
 * @property {Record<string, number>} [encodeNs] per value, by codec; what the codec says for those that it lacks
 * @property {number | null} [memoryBytes] for weights and the largest activation; null: no limit
 * @property {number} [rateRps] images per second that it takes
 * @property {number} [burst] squared coefficient of variation of the gaps between them
 * @property {number | null} [watts] while it computes; null: not known
 * @property {number | null} [joulesPerMb] to send 10^6 bytes; null: not known
 * @property {Record<string, number>} [imageBytes] of a PNG or JPEG as the camera gives it; those it lacks are not offered
 * @property {number} [sizeRatio] how much larger its payloads are than calibration expected
 * @property {number} [waiting] images that wait for the device now
 *
 * @typedef {object} LinkView
 * @property {number} [bytesPerS] up
 * @property {number} [roundTripMs] of a small message
 * @property {number} [backlogMs] until what was sent has left
 * @property {number | null} [downBytesPerS] null: not known, so an answer takes no time of its own
 *
 * @typedef {object} ServerView what the server reports, by entry
 * @property {Record<number, number>} waitMs in its queues
 * @property {Record<number, number>} executionMs on its accelerator
 *
 * @typedef {object} Goal what is minimised
 * @property {number} [jouleMs] what one joule of the device is worth, in ms of inference time
 * @property {number} [serverMs] what one ms of the server's execution is worth, in ms of inference time
 * @property {number | null} [deadlineMs] meet this, then use the least of the server
 * @property {number} [margin] share of the deadline that is kept free
 * @property {number} [agreement] the least top-1 agreement with fp32 that a codec must have
 * @property {Record<string, number>} [measured] agreement measured for this model, by codec
 *
 * @typedef {object} Choice
 * @property {number} cut
 * @property {string} codec
 *
 * @typedef {object} Estimate what one choice would mean; slicer's Estimate says more of each
 * @property {Choice} choice
 * @property {number} deviceWaitMs
 * @property {number} headMs with preprocessing
 * @property {number} encodeMs
 * @property {number} uploadWaitMs
 * @property {number} uploadMs
 * @property {number} roundTripMs
 * @property {number} serverWaitMs
 * @property {number} executionMs
 * @property {number} downloadMs
 * @property {number} totalMs their sum
 * @property {number} payloadBytes
 * @property {number} memoryBytes
 * @property {number} joules
 * @property {number} cost what is minimised
 * @property {string} refused why it is not offered; empty where it is
 */

/**
 * Every cut with every codec, those that are refused included; in the order of cuts and codecs.
 * @param {ModelFacts} facts
 * @param {DeviceView} device
 * @param {LinkView} link
 * @param {ServerView | null} server null: there is none
 * @param {Goal} goal
 * @returns {Estimate[]}
 * @throws {ConfigError} the goal is out of range
 */
export function estimateAll(facts, device, link, server, goal) {
  checkGoal(goal);
  const whole = facts.sliceBytes.length;
  const choices = facts.sliceBytes.flatMap((_, cut) => offered(facts, cut).map((codec) => ({ cut, codec })));
  return [...choices, { cut: whole, codec: "fp32" }].map((one) => estimate(facts, one, device, link, server, goal));
}

/**
 * The codecs of a cut that may be chosen: those of activations, with tables where there are some, and at cut 0 those of
 * images.
 * @param {ModelFacts} facts
 * @param {number} cut
 * @returns {string[]}
 */
export function offered(facts, cut) {
  const images = Object.keys(IMAGE_CODECS).filter((codec) => cut === 0 && IMAGE_CODECS[codec].planned);
  const withTables = (facts.calibrated ?? []).filter((one) => one.cut === cut && needsTables(one.codec)).map(({ codec }) => codec);
  return [...Object.keys(CODECS), ...withTables, ...images].filter((codec) => facts.codecs.includes(codec));
}

/**
 * What one choice would mean.
 * @param {ModelFacts} facts
 * @param {Choice} choice
 * @param {DeviceView} device
 * @param {LinkView} link
 * @param {ServerView | null} server
 * @param {Goal} goal
 * @returns {Estimate}
 */
export function estimate(facts, choice, device, link, server, goal) {
  const { cut, codec } = choice;
  const whole = cut === facts.sliceBytes.length;
  const { preprocessMs = 0, rateRps = 0, burst = 1, encodeNs = {}, waiting = 0 } = device;
  const payload = whole ? 0 : payloadBytes(facts, choice, device);
  const preparedThere = IMAGE_CODECS[codec]?.asTaken ?? false; // the server does all of the preprocessing
  const headMs = preparedThere ? 0 : preprocessMs + sum(device.slicesMs.slice(0, cut));
  let encodeMs = 0;
  if (!whole && !preparedThere) {
    const ofItself = codecNamed(codec)?.encodeNs ?? (needsTables(codec) ? TRANSFORM_ENCODE_NS : 0);
    const nanoseconds = encodeNs[codec] ?? ofItself;
    encodeMs = (nanoseconds * product(facts.shapes[cut])) / 1e6;
  }
  const uploadMs = whole || payload === null ? 0 : (payload / (link.bytesPerS ?? Infinity)) * 1e3;
  const deviceMs = headMs + encodeMs;
  const deviceBusy = (rateRps * deviceMs) / 1e3;
  const uploadBusy = (rateRps * uploadMs) / 1e3;
  const deviceWaitMs = Math.max(burst * wait(deviceBusy, deviceMs), (waiting / 2) * deviceMs);
  let uploadWaitMs = 0;
  if (!whole) {
    const evened = burst * Math.max(1 - deviceBusy ** 2, 0);
    const leftMs = (link.backlogMs ?? 0) - deviceWaitMs - deviceMs; // when this image comes to the link
    const behindMs = (waiting / 2) * Math.max(uploadMs - deviceMs, 0);
    uploadWaitMs = Math.max(evened * wait(uploadBusy, uploadMs), leftMs, behindMs);
  }
  const roundTripMs = whole ? 0 : (link.roundTripMs ?? 0);
  const serverWaitMs = whole ? 0 : (server?.waitMs[cut] ?? 0);
  const executionMs = whole ? 0 : (server?.executionMs[cut] ?? 0);
  const down = link.downBytesPerS ?? null;
  const downloadMs = whole || down === null ? 0 : ((facts.answerBytes ?? 0) / down) * 1e3;
  const waitsMs = deviceWaitMs + uploadWaitMs + serverWaitMs;
  const totalMs = waitsMs + headMs + encodeMs + uploadMs + roundTripMs + executionMs + downloadMs;
  const downloadBusy = (rateRps * downloadMs) / 1e3;
  const joules = ((device.watts ?? 0) * (headMs + encodeMs)) / 1e3 + ((device.joulesPerMb ?? 0) * (payload ?? 0)) / 1e6;
  return {
    choice,
    deviceWaitMs,
    headMs,
    encodeMs,
    uploadWaitMs,
    uploadMs,
    roundTripMs,
    serverWaitMs,
    executionMs,
    downloadMs,
    totalMs,
    payloadBytes: Math.trunc(payload ?? 0),
    memoryBytes: memoryBytes(facts, cut),
    joules,
    cost: totalMs + (goal.jouleMs ?? 0) * joules + (goal.serverMs ?? 0) * executionMs,
    refused: refusedWhy(facts, choice, device, server, goal, payload, deviceBusy, uploadBusy, downloadBusy),
  };
}

/**
 * The best of those that are offered; of equals the lower cut.
 * @param {readonly Estimate[]} estimates
 * @param {Goal} goal
 * @returns {Estimate | null} null: none is offered
 */
export function choose(estimates, goal) {
  const fit = estimates.filter((one) => !one.refused);
  const { deadlineMs = null, margin = 0.2 } = goal;
  if (deadlineMs !== null) {
    const inTime = fit.filter((one) => one.totalMs <= deadlineMs * (1 - margin));
    if (inTime.length) return least(inTime, (one) => [one.executionMs, one.cost, one.choice.cut, one.choice.codec]);
  }
  return least(fit, (one) => [one.cost, one.choice.cut, one.choice.codec]);
}

/**
 * On the wire; exact, or as expected by what was seen of it.
 * @param {ModelFacts} facts
 * @param {Choice} choice
 * @param {DeviceView} device
 * @returns {number | null} null: not known
 */
export function payloadBytes(facts, { cut, codec }, device) {
  const image = Object.hasOwn(IMAGE_CODECS, codec);
  if (image || needsTables(codec)) {
    const expected = calibrated(facts, cut, codec)?.payloadBytes;
    const exact = image ? IMAGE_CODECS[codec].payloadBytes(facts.shapes[0]) : null;
    return exact ?? device.imageBytes?.[codec] ?? (expected === undefined ? null : expected * (device.sizeRatio ?? 1));
  }
  return encodedBytes(codec, facts.shapes[cut], facts.channelAxes?.[cut] ?? null);
}

/**
 * Weights of slices 0:cut and their largest activation, as fp32.
 * @param {ModelFacts} facts
 * @param {number} cut
 * @returns {number}
 */
export function memoryBytes(facts, cut) {
  return sum(facts.sliceBytes.slice(0, cut)) + Math.max(...facts.shapes.slice(0, cut + 1).map((shape) => 4 * product(shape)));
}

/**
 * @param {ModelFacts} facts
 * @param {Choice} choice
 * @param {DeviceView} device
 * @param {ServerView | null} server
 * @param {Goal} goal
 * @param {number | null} payload
 * @param {number} deviceBusy
 * @param {number} uploadBusy
 * @param {number} downloadBusy
 * @returns {string}
 */
function refusedWhy(facts, { cut, codec }, device, server, goal, payload, deviceBusy, uploadBusy, downloadBusy) {
  if (memoryBytes(facts, cut) > (device.memoryBytes ?? Infinity)) return "does not fit the device's memory";
  if (deviceBusy > MOST_BUSY) return `the device would be busy ${percent(deviceBusy)} of the time`;
  if (cut === facts.sliceBytes.length) return "";
  if (server === null) return "no server";
  if (!facts.entries.includes(cut)) return "no entry of the server";
  if (payload === null) return "size of the image not known";
  const agreement = goal.measured?.[codec] ?? calibrated(facts, cut, codec)?.agreement ?? codecNamed(codec)?.agreement ?? 0;
  const wanted = goal.agreement ?? 0.99;
  if (agreement < wanted) return `agreement ${agreement.toFixed(3)} is below ${Number(wanted.toPrecision(6))}`;
  if (uploadBusy > MOST_BUSY) return `the link would be busy ${percent(uploadBusy)} of the time`;
  if (downloadBusy > MOST_BUSY) return `answers would keep the link busy ${percent(downloadBusy)} of the time`;
  return "";
}

/** @param {Goal} goal */
function checkGoal({ jouleMs = 0, serverMs = 0, margin = 0.2, agreement = 0.99 }) {
  const fits = jouleMs >= 0 && serverMs >= 0 && margin >= 0 && margin < 1 && agreement >= 0 && agreement <= 1;
  if (!fits) {
    throw new ConfigError(
      `goal: jouleMs ${jouleMs}, serverMs ${serverMs} (0 or more), margin ${margin} (0 to below 1), agreement ` +
        `${agreement} (0 to 1)`,
    );
  }
}

/**
 * Kingman's, for a service of fixed length.
 * @param {number} busy
 * @param {number} serviceMs
 */
function wait(busy, serviceMs) {
  const held = Math.min(busy, MOST_BUSY); // what is busier is refused
  return (held * serviceMs) / (2 * (1 - held));
}

/**
 * @param {ModelFacts} facts
 * @param {number} cut
 * @param {string} codec
 */
function calibrated(facts, cut, codec) {
  return facts.calibrated?.find((one) => one.cut === cut && one.codec === codec);
}

/** @param {string} name */
function codecNamed(name) {
  return Object.hasOwn(CODECS, name) ? CODECS[name] : IMAGE_CODECS[name];
}

/** @param {readonly number[]} numbers */
function sum(numbers) {
  return numbers.reduce((all, one) => all + one, 0);
}

/** @param {number} share */
function percent(share) {
  return `${roundHalfEven(share * 100)}%`;
}

/**
 * @template T
 * @param {readonly T[]} all
 * @param {(one: T) => readonly (number | string)[]} rank compared place by place
 * @returns {T | null}
 */
function least(all, rank) {
  /** @type {T | null} */
  let best = null;
  for (const one of all) {
    if (best === null) best = one;
    else {
      const [mine, theirs] = [rank(one), rank(best)];
      const place = mine.findIndex((value, at) => value !== theirs[at]);
      if (place >= 0 && mine[place] < theirs[place]) best = one;
    }
  }
  return best;
}
