// @ts-check
/**
 * Block weights as text, read and written as `blocks/weights.py` does: lists of 25/26/27 (SD1) or 19/20/21
 * (SDXL) numbers, one number for all, presets, named lists, `name=value` pairs.
 */

import { LAYOUTS, canonical, span } from "./blocks.mjs";
import { PRESETS } from "./presets.mjs";

/**
 * @typedef {object} Weights
 * @property {string} layout
 * @property {number[]} values one per block, in MBW order
 * @property {Record<string, number>} extra BASE, VAE and what else stands apart
 */

const NUMBER = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/;
const NAMED = /^\s*[^\d\s:,=+.-][^:,=\t]*?\s*[:\t]\s*(?=\S)/;
/** @type {Record<string, number[]>} */
const NONE = {};
const APART = ["BASE", "VAE", "CLIP", "TIME_EMBED", "LABEL_EMB", "OUT"];

/** Text that makes no sense as weights; the message is for the user. */
export class WeightsError extends Error {}

/**
 * Read any form; `layout` serves where the text itself does not tell (`0.5`, `GRAD_V`).
 * @param {string} text @param {string} [layout] @param {Record<string, number[]>} [own] the user's presets
 * @param {number} [rest] weight of blocks that the text does not name
 * @returns {Weights}
 */
export function parse(text, layout = "sd1", own = {}, rest = 0) {
  const body = String(text ?? "").replace(NAMED, "").trim().replace(/,+$/, "");
  const items = body ? body.split(",").map((item) => item.trim()) : [];
  if (!items.length) throw new WeightsError("No weights given.");
  const numbers = [];
  while (items.length && NUMBER.test(items[0])) numbers.push(Number(items.shift()));
  let weights = numbers.length
    ? fromNumbers(numbers, layout)
    : { layout, values: LAYOUTS[layout].blocks.map(() => rest), extra: {} };
  for (const item of items) weights = applied(weights, item, own);
  return weights;
}

/** @param {number[]} numbers @param {string} layout @returns {Weights} */
export function fromNumbers(numbers, layout) {
  if (!numbers.every(Number.isFinite)) throw new WeightsError("Weights must be finite numbers.");
  if (numbers.length === 1) {
    return { layout, values: LAYOUTS[layout].blocks.map(() => numbers[0]), extra: {} };
  }
  const id = layoutOfCount(numbers.length, layout);
  if (!id) throw new WeightsError(`${numbers.length} numbers given; expected ${expectedCounts(layout)}.`);
  const apart = numbers.length - LAYOUTS[id].blocks.length;
  /** @type {Record<string, number>} */
  const extra = {};
  if (apart >= 1) extra.BASE = numbers[0];
  if (apart === 2) extra.VAE = numbers[numbers.length - 1];
  const start = apart ? 1 : 0;
  return { layout: id, values: numbers.slice(start, start + LAYOUTS[id].blocks.length), extra };
}

/** The layout that a list of so many numbers addresses: the given one where it fits, else SD1 or SDXL. @param {number} count @param {string} layout */
function layoutOfCount(count, layout) {
  const fits = (/** @type {string} */ id) => {
    const apart = count - LAYOUTS[id].blocks.length;
    return apart >= 0 && apart <= (LAYOUTS[id].apart.includes("VAE") ? 2 : LAYOUTS[id].apart.includes("BASE") ? 1 : 0);
  };
  return [layout, ...(LAYOUTS[layout].arms ? ["sd1", "sdxl"] : [])].find(fits);
}

/** @param {string} layout */
function expectedCounts(layout) {
  if (LAYOUTS[layout].arms) return "25 or 26 (SD1), 19, 20 or 21 (SDXL)";
  const { length } = LAYOUTS[layout].blocks;
  return `${length}, or ${length + 1} with BASE first (${LAYOUTS[layout].title})`;
}

/**
 * The list form, which reads back equal.
 * @param {Weights} weights
 */
export function format({ values, extra }) {
  const rest = { ...extra };
  let numbers = [...values];
  if ("BASE" in rest) {
    numbers.unshift(rest.BASE);
    if ("VAE" in rest) {
      numbers.push(rest.VAE);
      delete rest.VAE;
    }
    delete rest.BASE;
  }
  return [...numbers.map(numberText), ...Object.entries(rest).map(([k, v]) => `${k}=${numberText(v)}`)].join(", ");
}

/** The shortest text that reads back as the same number. @param {number} value */
export function numberText(value) {
  return Object.is(value, -0) ? "0" : String(value);
}

/** A number as the user typed it, or null. @param {string} text */
export function numberOf(text) {
  const trimmed = text.trim().replace(",", ".");
  const value = NUMBER.test(trimmed) ? Number(trimmed) : NaN;
  return Number.isFinite(value) ? value : null;
}

/** The built-in presets of a layout, by name. @param {string} layout @returns {Record<string, number[]>} */
export function builtIn(layout) {
  return PRESETS[layout] ?? NONE;
}

/** Values of a preset in a layout, the user's own before the built-in ones; undefined when there is none.
 * @param {string} name @param {string} layout @param {Record<string, number[]>} own */
export function presetValues(name, layout, own = {}) {
  if (Object.hasOwn(own, name)) return own[name];
  const known = builtIn(layout);
  return Object.hasOwn(known, name) ? known[name] : undefined;
}

/** @param {Weights} weights @param {string} item @param {Record<string, number[]>} own @returns {Weights} */
function applied(weights, item, own) {
  const [name, ...rest] = item.split("=").map((part) => part.trim());
  if (!rest.length) {
    const values = presetValues(name, weights.layout, own);
    if (!values) throw new WeightsError(`Unknown preset ${JSON.stringify(name)}.`);
    const chosen = fromNumbers(values, weights.layout);
    return { ...chosen, extra: { ...weights.extra, ...chosen.extra } };
  }
  const value = rest.length === 1 && NUMBER.test(rest[0]) ? Number(rest[0]) : NaN;
  if (!Number.isFinite(value)) throw new WeightsError(`${JSON.stringify(rest.join("="))} is not a number.`);
  const layout = LAYOUTS[weights.layout];
  const apart = (APART.includes(name.toUpperCase()) || layout.apart.includes(name.toUpperCase())) && !canonical(layout, name);
  if (apart) return { ...weights, extra: { ...weights.extra, [name.toUpperCase()]: value } };
  const blocks = name.toUpperCase() === "ALL" ? layout.blocks : span(layout, name);
  if (!blocks) throw new WeightsError(`Unknown block ${JSON.stringify(name)} for ${layout.title}.`);
  return { ...weights, values: weights.values.map((old, i) => (blocks.includes(layout.blocks[i]) ? value : old)) };
}
