// The server's metrics in Prometheus' text format → numbers.

import { request } from "../lib/api.js";

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** @typedef {{name: string, labels: Object<string, string>, value: number}} Sample */

/** @returns {Promise<Sample[]>} */
export async function scrape() {
  const text = await (await request("/metrics", { isQuiet: true })).text();
  return text.split("\n").map(sampleOf).filter(Boolean);
}

function sampleOf(line) {
  const found = line.startsWith("#") ? null : SAMPLE.exec(line);
  if (!found) return null;
  const labels = Object.fromEntries(
    [...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [
      name,
      value.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign)),
    ]),
  );
  return { name: found[1], labels, value: Number(found[3]) };
}

/** The sum over all labels. @param {Sample[]} samples */
export const total = (samples, name) =>
  samples
    .filter((sample) => sample.name === `localinfra_${name}`)
    .reduce((sum, sample) => sum + sample.value, 0);

/** By the value of one label. @param {Sample[]} samples @returns {Map<string, number>} */
export function byLabel(samples, name, label) {
  const found = new Map();
  for (const sample of samples) {
    if (sample.name === `localinfra_${name}`)
      found.set(sample.labels[label], (found.get(sample.labels[label]) ?? 0) + sample.value);
  }
  return found;
}

/** How much memory models may take, by device. */
export async function budgets() {
  try {
    return byLabel(await scrape(), "memory_budget_bytes", "device");
  } catch (error) {
    if (error.status !== 403) throw error;
    return new Map(); // the key may not see metrics, but it may see models
  }
}
