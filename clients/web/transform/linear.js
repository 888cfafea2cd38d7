/**
 * An activation to coefficients: channels by a fitted transform, places by a 2-D cosine transform; as
 * slicer/core/codecs/transform/linear.py does it. Sums are float64 here and float32 there, so the last bits differ.
 */

/** Sums of so many rows of the matrix and so many patches run at once: they do not wait for each other, and share loads. */
const ROWS = 2;
const PATCHES = 4;

/**
 * @param {import("./tables.js").Tables} tables
 * @returns {(values: Float32Array) => Float32Array} an activation of their shape to coefficients: prefix tokens [P, C],
 *   then [C, height, width]. Float32 overflows to infinity
 */
export function analysisOf(tables) {
  const [height, width] = tables.grid;
  const places = height * width;
  // No root of a length: engines keep that as a float, and all indexes that are reckoned from it.
  const channels = tables.layout === "planes" ? tables.shape[0] : tables.shape[tables.shape.length - 1];
  const ofPrefix = tables.prefix * channels;
  const [rows, columns] = [cosines(height), cosines(width)];
  // Float64, so that the innermost loop converts nothing; filled up with rows of 0.
  const matrix = new Float64Array(upTo(channels, ROWS) * channels);
  matrix.set(tables.analysis);
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
    const planes = Array.from({ length: ROWS }, () => new Float64Array(upTo(places, PATCHES)));
    const half = new Float64Array(places);
    for (let first = 0; first < channels; first += ROWS) {
      mixChannels(matrix, first, channels, patches, planes[0], planes[1]);
      for (let k = first; k < Math.min(first + ROWS, channels); k++) {
        const to = ofPrefix + k * places;
        transformRows(rows, height, width, planes[k - first], half);
        transformColumns(columns, height, width, half, found.subarray(to, to + places));
      }
    }
    return found;
  };
}

/**
 * What is no prefix token, less the mean as float32, [G, C]; filled up with 0 to a multiple of `PATCHES`.
 * @param {import("./tables.js").Tables} tables
 * @param {Float32Array} values
 * @param {number} channels
 * @param {number} places
 */
function centredPatches({ layout, prefix, mean }, values, channels, places) {
  const found = new Float64Array(upTo(places, PATCHES) * channels);
  const before = prefix * channels;
  for (let g = 0; g < places; g++) {
    for (let c = 0; c < channels; c++) {
      const at = g * channels + c;
      found[at] = Math.fround(values[layout === "planes" ? c * places + g : before + at] - mean[before + at]);
    }
  }
  return found;
}

/**
 * `ROWS` coefficients of each patch. Written out, so that the sums stay in registers.
 * @param {Float64Array} matrix [C, C] and more rows
 * @param {number} row the first one
 * @param {number} channels
 * @param {Float64Array} patches [G, C]
 * @param {Float64Array} upper [G], where those of the first row go
 * @param {Float64Array} lower [G], those of the second row
 */
function mixChannels(matrix, row, channels, patches, upper, lower) {
  const one = row * channels;
  const two = one + channels;
  for (let g = 0; g < upper.length; g += PATCHES) {
    const first = g * channels;
    const [second, third, fourth] = [first + channels, first + 2 * channels, first + 3 * channels];
    let [a, b, c, d] = [0, 0, 0, 0];
    let [e, f, h, j] = [0, 0, 0, 0];
    for (let i = 0; i < channels; i++) {
      const above = matrix[one + i];
      const below = matrix[two + i];
      const w = patches[first + i];
      const x = patches[second + i];
      const y = patches[third + i];
      const z = patches[fourth + i];
      a += above * w;
      b += above * x;
      c += above * y;
      d += above * z;
      e += below * w;
      f += below * x;
      h += below * y;
      j += below * z;
    }
    [upper[g], upper[g + 1], upper[g + 2], upper[g + 3]] = [a, b, c, d];
    [lower[g], lower[g + 1], lower[g + 2], lower[g + 3]] = [e, f, h, j];
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

/**
 * @param {number} count
 * @param {number} size
 * @returns {number} the next multiple of `size`
 */
function upTo(count, size) {
  return Math.ceil(count / size) * size;
}
