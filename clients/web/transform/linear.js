/**
 * An activation to coefficients: channels by a fitted transform, places by a 2-D cosine transform; as
 * slicer/core/codecs/transform/linear.py does it. Sums are float64 here and float32 there, so the last bits differ.
 */

const TOGETHER = 4;

/**
 * @param {import("./tables.js").Tables} tables
 * @returns {(values: Float32Array) => Float32Array} an activation of their shape to coefficients: prefix tokens [P, C],
 *   then [C, height, width]. Float32 overflows to infinity
 */
export function analysisOf(tables) {
  const [height, width] = tables.grid;
  const places = height * width;
  const channels = tables.analysis.length ** 0.5;
  const ofPrefix = tables.prefix * channels;
  const [rows, columns] = [cosines(height), cosines(width)];
  return (values) => {
    const found = new Float32Array(ofPrefix + channels * places);
    for (let at = 0; at < ofPrefix; at++) {
      const [token, row] = [at - (at % channels), (at % channels) * channels];
      let sum = 0;
      for (let c = 0; c < channels; c++) {
        sum += tables.prefixAnalysis[row + c] * Math.fround(values[token + c] - tables.mean[token + c]);
      }
      found[at] = sum;
    }
    const patches = centredPatches(tables, values, channels, places);
    const [plane, half] = [new Float64Array(patches.length / channels), new Float64Array(places)];
    for (let k = 0; k < channels; k++) {
      mixChannels(tables.analysis.subarray(k * channels, (k + 1) * channels), patches, plane);
      const to = ofPrefix + k * places;
      transformRows(rows, height, width, plane, half);
      transformColumns(columns, height, width, half, found.subarray(to, to + places));
    }
    return found;
  };
}

/**
 * What is no prefix token, less the mean, [G, C]; filled up with 0 to a multiple of `TOGETHER`.
 * @param {import("./tables.js").Tables} tables
 * @param {Float32Array} values
 * @param {number} channels
 * @param {number} places
 */
function centredPatches({ layout, prefix, mean }, values, channels, places) {
  const found = new Float32Array(Math.ceil(places / TOGETHER) * TOGETHER * channels);
  const before = prefix * channels;
  for (let g = 0; g < places; g++) {
    for (let c = 0; c < channels; c++) {
      const at = g * channels + c;
      found[at] = values[layout === "planes" ? c * places + g : before + at] - mean[before + at];
    }
  }
  return found;
}

/**
 * One coefficient of each patch, of `TOGETHER` patches at once: sums that do not wait for each other are quicker.
 * @param {Float32Array} weights [C]
 * @param {Float32Array} patches [G, C]
 * @param {Float64Array} to [G]
 */
function mixChannels(weights, patches, to) {
  const channels = weights.length;
  for (let g = 0; g < to.length; g += TOGETHER) {
    const first = g * channels;
    const [second, third, fourth] = [first + channels, first + 2 * channels, first + 3 * channels];
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let i = 0; i < channels; i++) {
      const weight = weights[i];
      a += weight * patches[first + i];
      b += weight * patches[second + i];
      c += weight * patches[third + i];
      d += weight * patches[fourth + i];
    }
    [to[g], to[g + 1], to[g + 2], to[g + 3]] = [a, b, c, d];
  }
}

/**
 * @param {Float32Array} matrix [height, height]
 * @param {number} height
 * @param {number} width
 * @param {Float64Array} from [height, width]
 * @param {Float64Array} to matrix @ from
 */
function transformRows(matrix, height, width, from, to) {
  to.fill(0);
  for (let u = 0; u < height; u++) {
    for (let y = 0; y < height; y++) {
      const weight = matrix[u * height + y];
      for (let x = 0; x < width; x++) to[u * width + x] += weight * from[y * width + x];
    }
  }
}

/**
 * @param {Float32Array} matrix [width, width]
 * @param {number} height
 * @param {number} width
 * @param {Float64Array} from [height, width]
 * @param {Float32Array} to from @ matrix.T
 */
function transformColumns(matrix, height, width, from, to) {
  for (let u = 0; u < height; u++) {
    for (let v = 0; v < width; v++) {
      let sum = 0;
      for (let x = 0; x < width; x++) sum += from[u * width + x] * matrix[v * width + x];
      to[u * width + v] = sum;
    }
  }
}

/**
 * The orthonormal DCT-II of `size` points: rows are frequencies.
 * @param {number} size
 */
function cosines(size) {
  return Float32Array.from({ length: size * size }, (_, at) => {
    const [row, point] = [Math.floor(at / size), (at % size) + 0.5];
    return row === 0 ? Math.sqrt(1 / size) : Math.sqrt(2 / size) * Math.cos((Math.PI * row * point) / size);
  });
}
