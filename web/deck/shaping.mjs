// @ts-check
/** What the deck does to whole curves. All functions return new lists. */

import { LAYOUTS } from "./blocks.mjs";

const PLACES = 1e10;

/** To ten places, so that 0.1 + 0.2 reads 0.3. @param {number} value */
export function tidy(value) {
  return Math.round(value * PLACES) / PLACES + 0;
}

/** @param {number[]} first @param {number[]} second @param {number} amount share of the second */
export function blend(first, second, amount) {
  return first.map((value, i) => tidy((1 - amount) * value + amount * second[i]));
}

/** IN00 with OUT11, IN01 with OUT10, ... @param {number[]} values */
export function mirror(values) {
  return [...values].reverse();
}

/** The same merge with A and B exchanged. @param {number[]} values */
export function invert(values) {
  return values.map((value) => tidy(1 - value));
}

/** @param {number[]} values @param {number} factor @param {number} offset */
export function scale(values, factor, offset) {
  return values.map((value) => tidy(factor * value + offset));
}


/**
 * The same blocks in the other layout: SDXL lacks IN09-IN11 and OUT09-OUT11; SD1 gets `rest` there.
 * @param {number[]} values @param {string} from @param {string} to @param {number} rest
 */
export function relayout(values, from, to, rest = 0) {
  const names = LAYOUTS[from].blocks;
  return LAYOUTS[to].blocks.map((block) => (names.includes(block) ? values[names.indexOf(block)] : rest));
}

/**
 * One bar pulled to a value, and its neighbours with it, less the farther they are (a Gaussian).
 * @param {number[]} values before the pull @param {number} index @param {number} value @param {number} width blocks
 */
export function brushed(values, index, value, width) {
  const delta = value - values[index];
  return values.map((old, i) => thousandths(old + delta * Math.exp(-((i - index) ** 2) / (2 * width ** 2))));
}

/**
 * Change some of the values by a number.
 * @param {number[]} values @param {number[]} indices @param {"set" | "add" | "multiply"} how @param {number} by
 */
export function together(values, indices, how, by) {
  const changed = { set: () => by, add: (/** @type {number} */ old) => old + by, multiply: (/** @type {number} */ old) => old * by };
  return values.map((old, i) => (indices.includes(i) ? tidy(changed[how](old)) : old));
}

/**
 * Random numbers between two limits, the same for the same seed (mulberry32).
 * @param {number} count @param {number} seed @param {number} low @param {number} high
 */
export function dice(count, seed, low, high) {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return thousandths(low + (high - low) * (((t ^ (t >>> 14)) >>> 0) / 2 ** 32));
  });
}

/** @param {number} value */
function thousandths(value) {
  return Math.round(value * 1000) / 1000 + 0;
}

/**
 * What Block Weights makes of its numbers: blended, mirrored, inverted, scaled, shifted, in that order.
 * @param {number[]} values @param {Shaping} shaping @param {number[] | undefined} second values of blend_with
 */
export function shaped(values, { blend: amount, mirror: mirrored, invert: inverted, scale: factor, offset }, second) {
  let found = second ? values.map((value, i) => (1 - amount) * value + amount * second[i]) : values;
  if (mirrored) found = mirror(found);
  return found.map((value) => factor * (inverted ? 1 - value : value) + offset);
}

/** @typedef {{blend_with: string, blend: number, mirror: boolean, invert: boolean, scale: number, offset: number}} Shaping */

/** The settings of Block Weights that change nothing. @type {Shaping} */
export const NO_SHAPING = { blend_with: "none", blend: 0.5, mirror: false, invert: false, scale: 1, offset: 0 };

/** Whether two lists are the same to nine places. @param {number[]} first @param {number[]} second */
export function same(first, second) {
  return first.length === second.length && first.every((value, i) => Math.abs(value - second[i]) < 1e-9);
}

/** The lowest and highest weight the bars must show: 0..1, wider in whole numbers where a value lies beyond.
 * @param {number[]} values */
export function range(values) {
  return { low: Math.floor(Math.min(0, ...values)), high: Math.ceil(Math.max(1, ...values)) };
}

/**
 * The points of a polyline through the values in a `width` x `height` box.
 * @param {number[]} values @param {number} width @param {number} height
 */
export function points(values, width, height) {
  const { low, high } = range(values);
  const step = width / Math.max(1, values.length - 1);
  const y = (/** @type {number} */ value) => height - (height * (value - low)) / (high - low);
  return values.map((value, i) => `${(i * step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}
