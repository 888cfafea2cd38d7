/** Decoded pixels of files and of a camera. */

import { ImageError, shown } from "../src/errors.js";
import { checkSize, fromRgba } from "../src/pixels.js";

/**
 * A file's image, upright. Colours are the file's own, as PIL has them.
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 * @throws {ImageError} the browser cannot decode it
 */
export async function decode(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" });
  } catch (error) {
    throw new ImageError(`a file of type ${shown(file.type)} cannot be decoded (${error}); use a PNG or JPEG`);
  }
}

/**
 * The pixels of whatever a canvas can draw.
 * @param {ImageBitmap | HTMLVideoElement} source
 * @param {number} width
 * @param {number} height
 * @returns {import("../src/pixels.js").Image}
 * @throws {ImageError} its size is out of bounds
 */
export function pixelsOf(source, width, height) {
  checkSize(width, height);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new ImageError(`an image of ${width}x${height} pixels; this browser has no memory for it: make it smaller`);
  context.drawImage(source, 0, 0, width, height);
  return fromRgba(context.getImageData(0, 0, width, height));
}

/** A camera that shows its frames in a video element. */
export class Camera {
  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.video = video;
  }

  /** Whether frames come. */
  get on() {
    return this.video.srcObject !== null;
  }

  /** Asks the user. Throws ImageError: there is no camera, or it may not be used. */
  async start() {
    if (!navigator.mediaDevices) throw new ImageError("no camera: browsers give it to pages on https or localhost only");
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 640 } } };
      this.video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
      await this.video.play();
    } catch (error) {
      this.stop();
      throw new ImageError(`no camera (${error}); allow it in the browser's address bar`);
    }
  }

  /** Gives the camera back. */
  stop() {
    const stream = /** @type {MediaStream | null} */ (this.video.srcObject);
    for (const track of stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }

  /** The frame of this moment; null: none has come yet. */
  frame() {
    const { videoWidth, videoHeight } = this.video;
    return videoWidth && videoHeight ? pixelsOf(this.video, videoWidth, videoHeight) : null;
  }
}
