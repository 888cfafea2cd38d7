/**
 * What can be wrong with a user's input; named as in slicer/errors.py. Every message holds the value and the remedy.
 */

/** A user's input is wrong. */
export class HeadTailError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = this.constructor.name;
  }
}

/** A slice's file is missing, truncated, altered or belongs to another model. */
export class ShardError extends HeadTailError {}

/** An activation or an image cannot be encoded. */
export class CodecError extends HeadTailError {}

/** An activation holds NaN or infinity. */
export class NotFiniteError extends CodecError {}

/** A request or an answer does not follow the Open Inference Protocol. */
export class BadRequestError extends HeadTailError {}

/** An image cannot become a model's input. */
export class ImageError extends HeadTailError {}

/** A configuration is unknown, out of range or contradicts itself. */
export class ConfigError extends HeadTailError {}

/** There is no server, it is another one than expected, or it stopped answering. */
export class ServerError extends HeadTailError {}

/** What lies before the server has none to ask at the moment: the same request may work soon. */
export class ComeAgain extends ServerError {}

const MAX_SHOWN = 80;

/**
 * A value for a message, however long it is.
 * @param {unknown} value
 * @returns {string}
 */
export function shown(value) {
  const text = typeof value === "string" ? JSON.stringify(value.slice(0, MAX_SHOWN + 1)) : String(JSON.stringify(value) ?? value);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}...` : text;
}
