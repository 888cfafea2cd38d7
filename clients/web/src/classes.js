/** The best classes of logits: a device's own and the server's, by one rule, so that they are equal. */

/**
 * The `k` largest, best first, the lower class first on ties; all, where there are fewer.
 * @param {Float32Array} logits
 * @param {number} k
 * @returns {[number, number][]} (class, logit) pairs
 */
export function topClasses(logits, k) {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  return order.slice(0, k).map((index) => [index, logits[index]]);
}

/**
 * Of all classes: how likely each is. For people to read; the last bits are the browser's.
 * @param {Float32Array} logits
 * @returns {number[]}
 */
export function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}
