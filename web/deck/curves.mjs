// @ts-check
/** The SD1 presets on any number of blocks, as `blocks/presets.py` stretches them. */

import { PRESETS } from "./presets.mjs";

/** @typedef {(x: number) => number} Curve */

const ss = (/** @type {number} */ v) => 3 * v ** 2 - 2 * v ** 3;
const fake = (/** @type {number} */ x) => (25 / 6) * (x ** 3 - 2 * x ** 2 + x) + ss(x) + (25 / 6) * (x ** 3 - x ** 2);

/** The triangle wave that folds all numbers into 0..1. @param {number} y */
function tri(y) {
  const folded = ((y % 2) + 2) % 2;
  return folded <= 1 ? folded : 2 - folded;
}

/** @type {Record<string, Curve>} */
const CURVES = {
  GRAD_A: (x) => 1 - Math.abs(1 - 2 * x),
  FLAT_25: () => 0.25,
  FLAT_75: () => 0.75,
  SMOOTHSTEP: ss,
  COSINE: (x) => (1 + Math.cos(Math.PI * x)) / 2,
  FAKE_CUBIC_HERMITE: fake,
  TRUE_CUBIC_HERMITE: (x) => (x ? fake(x) + (1 - ss(x)) / 24 : 0),
  ALL_A: () => 0,
};
const REVERSED = {
  GRAD_A: "GRAD_V",
  SMOOTHSTEP: "REVERSE-SMOOTHSTEP",
  COSINE: "REVERSE_COSINE",
  FAKE_CUBIC_HERMITE: "FAKE_REVERSE_CUBIC_HERMITE",
  TRUE_CUBIC_HERMITE: "TRUE_REVERSE_CUBIC_HERMITE",
  ALL_A: "ALL_B",
};
for (const times of [2, 3, 4]) {
  CURVES[`SMOOTHSTEP*${times}`] = (x) => tri(times * ss(x));
  CURVES[`SMOOTHSTEP/${times}`] = (x) => ss(tri(times * x));
  for (const mark of "*/") /** @type {any} */ (REVERSED)[`SMOOTHSTEP${mark}${times}`] = `R_SMOOTHSTEP${mark}${times}`;
}
for (const [name, reverse] of Object.entries(REVERSED)) CURVES[reverse] = (x) => 1 - CURVES[name](x);

/** @type {Map<number, Record<string, number[]>>} */
const KNOWN = new Map();

/**
 * Presets by name for a number of blocks.
 * @param {number} count @param {boolean} [thirds] only the three that are there for every layout
 * @returns {Record<string, number[]>}
 */
export function stretched(count, thirds = false) {
  const last = Object.fromEntries(["FIRST_THIRD", "MIDDLE_THIRD", "LAST_THIRD"].map((name, third) => [
    name, Array.from({ length: count }, (_, i) => Number(Math.floor((3 * i) / count) === third)),
  ]));
  if (thirds || !count) return count ? last : {};
  let found = KNOWN.get(count);
  if (!found) {
    const places = Array.from({ length: count }, (_, i) => (count > 1 ? i / (count - 1) : 0));
    found = Object.fromEntries(Object.entries(PRESETS.sd1).map(([name, steps]) => [
      name, places.map(CURVES[name] ?? ((x) => steps[even(24 * x)])),
    ]));
    KNOWN.set(count, (found = { ...found, ...last }));
  }
  return found;
}

/** Rounded to the nearest whole number, halves to the even one, as Python does. @param {number} value */
function even(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}
