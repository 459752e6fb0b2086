// @ts-check
/** What each block of the two U-Nets holds: tensors, attention layers, share of the U-Net's parameters. */

import { LAYOUTS, scaleOf } from "./blocks.mjs";

/** @typedef {{tensors: number, attention?: number, share: number}} Facts share is a fraction of all parameters */

/** By layout, in MBW order: tensors, cross-attention layers, parameters. */
const COUNTS = {
  sd1: [859520964, [
    [2, 0, 11840], [36, 1, 4801280], [36, 1, 4801280], [2, 0, 921920], [38, 1, 15746560], [36, 1, 17384960],
    [2, 0, 3687040], [38, 1, 59345920], [36, 1, 65899520], [2, 0, 14746880], [10, 0, 31138560], [10, 0, 31138560],
    [46, 1, 97038080], [12, 0, 49164800], [12, 0, 49164800], [14, 0, 63911680], [38, 1, 83925760], [38, 1, 83925760],
    [40, 1, 90479360], [38, 1, 25989760], [38, 1, 21892480], [40, 1, 23530880], [38, 1, 6953280], [38, 1, 5928640],
    [38, 1, 5928640],
  ]],
  sdxl: [2567463684, [
    [2, 0, 11840], [10, 0, 2255040], [10, 0, 2255040], [2, 0, 921920], [58, 2, 27390080], [56, 2, 29028480],
    [2, 0, 3687040], [218, 10, 375425280], [216, 10, 381978880], [226, 10, 413117440], [218, 10, 400005120],
    [218, 10, 400005120], [220, 10, 406558720], [58, 2, 37633280], [58, 2, 33536000], [60, 2, 35174400],
    [12, 0, 4407040], [12, 0, 3382400], [12, 0, 3382400],
  ]],
};

/** @type {Record<string, Record<string, Facts>>} */
const READ = {};

/** Keep what the server read off a file's header. @param {string} layout @param {Record<string, Facts>} facts by block */
export function keepFacts(layout, facts) {
  READ[layout] = facts;
}

/** What is known of a block, or undefined. @param {string} layout @param {string} block @returns {Facts | undefined} */
export function factsOf(layout, block) {
  if (READ[layout]?.[block]) return READ[layout][block];
  const known = COUNTS[/** @type {keyof COUNTS} */ (layout)];
  if (!known) return undefined;
  const [total, rows] = /** @type {[number, number[][]]} */ (known);
  const row = rows[LAYOUTS[layout].blocks.indexOf(block)];
  return row && { tensors: row[0], attention: row[1], share: row[2] / total };
}

/**
 * One line about a block: `OUT05: 1/4 resolution, 1 attention layer, 11 % of the parameters, 40 tensors`.
 * @param {string} layout @param {string} block @param {(key: string) => string} words
 */
export function describe(layout, block, words) {
  const shape = LAYOUTS[layout];
  if (shape.apart.includes(block)) return `${block}: ${words("baseHelp")}`;
  const found = factsOf(layout, block);
  const stack = shape.stacks.find(({ blocks }) => blocks.includes(block));
  const parts = shape.arms ? [fill(words("resolution"), `1/${scaleOf(shape, block)}`)] : [stack?.title ?? ""];
  if (found?.attention !== undefined) parts.push(fill(words(found.attention === 1 ? "attentionOne" : "attention"), String(found.attention)));
  if (found) parts.push(fill(words("parameters"), percent(found.share)), fill(words("tensors"), String(found.tensors)));
  return `${block}: ${parts.filter(Boolean).join(", ")}`;
}

/** @param {number} share */
function percent(share) {
  const value = 100 * share;
  return value >= 1 ? value.toFixed(0) : value >= 0.01 ? value.toFixed(2) : "<0.01";
}

/** @param {string} pattern @param {string} value */
function fill(pattern, value) {
  return pattern.replace("{}", value);
}
