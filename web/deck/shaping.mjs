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

/** One block as it is, all others `rest`. @param {number[]} values @param {number} index @param {number} rest */
export function solo(values, index, rest = 0) {
  return values.map((value, i) => (i === index ? value : rest));
}

/**
 * The same blocks in the other layout: SDXL lacks IN09-IN11 and OUT09-OUT11; SD1 gets `rest` there.
 * @param {number[]} values @param {string} from @param {string} to @param {number} rest
 */
export function relayout(values, from, to, rest = 0) {
  const names = LAYOUTS[from].blocks;
  return LAYOUTS[to].blocks.map((block) => (names.includes(block) ? values[names.indexOf(block)] : rest));
}

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
