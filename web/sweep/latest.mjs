// @ts-check
/** The last sweep that ran in this page, which a deck offers as weights. */

import { heat } from "./sweep.mjs";

/** @type {import("./sweep.mjs").Sweep | null} */
let latest = null;

/** @param {import("./sweep.mjs").Sweep} sweep */
export function keepSweep(sweep) {
  latest = sweep;
}

/** How far each block moved the image, as a share of the farthest; empty before a sweep ran. @param {string} title */
export function sweepHeat(title) {
  if (!latest) return [];
  /** @type {Record<string, number>} */
  const values = {};
  for (const [index, { share }] of heat(latest.cells, "rms").entries()) {
    const { block } = latest.cells[index];
    if (block) values[block] = Math.max(values[block] ?? 0, Math.round(share * 1000) / 1000);
  }
  return [{ title, values }];
}
