/**
 * An activation to coefficients: channels by a fitted transform, places by a 2-D cosine transform; as
 * slicer/core/codecs/transform/linear.py does it. Sums are float64 here and float32 there, so the last bits differ.
 */

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
    const patches = centredPlanes(tables, values, channels, places);
    const [plane, half] = [new Float64Array(places), new Float64Array(places)];
    for (let k = 0; k < channels; k++) {
      plane.fill(0);
      for (let c = 0; c < channels; c++) {
        const [weight, from] = [tables.analysis[k * channels + c], c * places];
        for (let g = 0; g < places; g++) plane[g] += weight * patches[from + g];
      }
      const to = ofPrefix + k * places;
      transformRows(rows, height, width, plane, half);
      transformColumns(columns, height, width, half, found.subarray(to, to + places));
    }
    return found;
  };
}

/**
 * What is no prefix token, less the mean, [C, G].
 * @param {import("./tables.js").Tables} tables
 * @param {Float32Array} values
 * @param {number} channels
 * @param {number} places
 */
function centredPlanes({ layout, prefix, mean }, values, channels, places) {
  const found = new Float32Array(channels * places);
  for (let g = 0; g < places; g++) {
    for (let c = 0; c < channels; c++) {
      const inTokens = (prefix + g) * channels + c; // as the mean lies
      const inPlanes = c * places + g;
      found[inPlanes] = values[layout === "planes" ? inPlanes : inTokens] - mean[inTokens];
    }
  }
  return found;
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
