// Vectors → similarities, and a map in two dimensions. Plain numbers only.

/** The cosine of each pair. @param {number[][]} vectors @returns {number[][]} */
export function similarities(vectors) {
  const units = vectors.map((vector) => {
    const length = Math.hypot(...vector) || 1;
    return Float64Array.from(vector, (value) => value / length);
  });
  return units.map((a) => units.map((b) => dot(a, b)));
}

function dot(a, b) {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += a[at] * b[at];
  return sum;
}

const ROUNDS = 200; // of power iteration, far more than a picture needs

/**
 * The first two principal components, from the inner products of the vectors: the plane in which
 * they differ most. Returns x and y of each, and which share of all differences the plane shows.
 * @param {number[][]} products symmetric
 */
export function principalPlane(products) {
  const number = products.length;
  const means = products.map((row) => row.reduce((sum, value) => sum + value, 0) / number);
  const mean = means.reduce((sum, value) => sum + value, 0) / number;
  const centred = products.map((row, i) => row.map((value, j) => value - means[i] - means[j] + mean));
  const spread = centred.reduce((sum, row, i) => sum + row[i], 0);
  const axes = [];
  for (let axis = 0; axis < 2; axis++) axes.push(mainDirection(centred, axis));
  const shown = axes.reduce((sum, { value }) => sum + value, 0);
  return {
    points: products.map((_, at) =>
      axes.map(({ vector, value }) => vector[at] * Math.sqrt(Math.max(0, value))),
    ),
    share: spread > 0 ? shown / spread : 1,
  };
}

/** The largest eigenvalue with its vector, which is then taken out of the matrix. */
function mainDirection(matrix, seed) {
  let vector = matrix.map((_, at) => Math.sin(1 + seed + at * 12.9898)); // the same each time
  let value = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const next = matrix.map((row) => dot(row, vector));
    value = Math.hypot(...next);
    if (value < 1e-12) break;
    vector = next.map((part) => part / value);
  }
  if (value < 1e-12) return { vector: vector.map(() => 0), value: 0 };
  matrix.forEach((row, i) => row.forEach((_, j) => (row[j] -= value * vector[i] * vector[j])));
  return { vector, value };
}
