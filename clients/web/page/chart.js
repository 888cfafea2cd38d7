/** Where the time of the last requests went: one bar each, its phases one above another. */

/** Phase -> the custom property that holds its colour. */
export const PHASES = Object.freeze({
  preprocess: "--preprocess",
  head: "--head",
  encode: "--encode",
  network: "--network",
  server: "--server",
});

const MOST_BARS = 60;

/**
 * @typedef {Record<keyof typeof PHASES, number>} Phases ms of each
 */

/** Draws on a canvas; `add` is cheap, the picture is made at the browser's next frame. */
export class Chart {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {Phases[]} */
    this.bars = [];
    this.waiting = false;
    new ResizeObserver(() => this.#redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
  }

  /** @param {Phases} phases of one request */
  add(phases) {
    this.bars = [...this.bars, phases].slice(-MOST_BARS);
    this.#redraw();
  }

  #redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    const context = canvas.getContext("2d");
    if (context === null || !width) return;
    context.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(canvas);
    const most = niceAbove(Math.max(1, ...this.bars.map(total)));
    const [left, top, bottom] = [38, 8, 6];
    const scale = (height - top - bottom) / most;
    context.font = `11px ${style.fontFamily}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(height - bottom - share * most * scale) + 0.5;
      context.fillStyle = style.getPropertyValue("--muted");
      context.fillText(`${most * share}`, left - 6, y);
      context.fillStyle = style.getPropertyValue("--line");
      context.fillRect(left, y, width - left, 1);
    }
    const step = (width - left) / MOST_BARS;
    this.bars.forEach((bar, at) => {
      let y = height - bottom;
      for (const [phase, colour] of Object.entries(PHASES)) {
        const size = bar[/** @type {keyof Phases} */ (phase)] * scale;
        context.fillStyle = style.getPropertyValue(colour);
        context.fillRect(left + at * step, y - size, Math.max(step - 1.5, 1), size);
        y -= size;
      }
    });
  }
}

/** @param {Phases} bar */
function total(bar) {
  return Object.values(bar).reduce((all, one) => all + one, 0);
}

/**
 * The next of 1, 2, 5, 10, 20, ... ms.
 * @param {number} value
 */
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5].find((one) => one * power >= value) ?? 10) * power;
}
