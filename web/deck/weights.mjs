// @ts-check
/**
 * Block weights as text, read and written as `blocks/weights.py` does: lists, one number for all, presets, named
 * lists, `name=value` pairs, and the name of a layout in front.
 */

import { LAYOUTS, blocksOf, layoutNamed } from "./blocks.mjs";
import { PRESETS } from "./presets.mjs";
import { stretched } from "./curves.mjs";

/**
 * @typedef {object} Weights
 * @property {string} layout
 * @property {number[]} values one per block, in the order of the layout
 * @property {Record<string, number>} extra BASE, VAE and what else is outside the blocks
 * @property {string[] | null} named the blocks that the text gives a number; null for all of them
 * @property {number | null} rest the number of a text that is one number for everything
 * @property {string[]} [off] blocks to bypass (Scale Blocks); their number is not used
 * @property {Record<string, string>} [unknown] what the text has for names whose number only a run knows (LoRA); their number is not used
 * @property {{text: string, weights: Weights}} [source] a text of LoRA Block Weight that changes are written after
 */

export const NUMBER = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$/;
const LABEL = /^\s*([^\d\s:,=+.-][^:,=\t]*?)\s*[:\t]\s*(?=\S)/;
const LONGEST_OF_UNETS = 27; // a longer list can only be meant for another model, whatever the deck showed before
const ENDLESS = /^[-+]*(?:nan|inf|infinity)$/i;

/** Text that cannot be used as weights; the message is for the user. */
export class WeightsError extends Error {}

/**
 * Read any form; `layout` serves where the text itself does not tell (`0.5`, `GRAD_V`).
 * @param {string} text @param {string} [layout] @param {Record<string, number[]>} [own] the user's presets
 * @param {number} [rest] weight of blocks that the text does not name
 * @returns {Weights}
 */
export function parse(text, layout = "sd1", own = {}, rest = 0) {
  let body = String(text ?? "");
  for (let labels = 0, label; labels < 2 && (label = LABEL.exec(body)); labels++) {
    body = body.slice(label[0].length);
    layout = layoutNamed(label[1]) ?? layout;
  }
  body = body.trim().replace(/,+$/, "");
  const items = body ? body.split(",").map((item) => item.trim()) : [];
  if (!items.length) throw new WeightsError("No weights are given.");
  if (items.includes("")) throw new WeightsError("There are two commas in a row.");
  const end = items.findIndex((item) => !NUMBER.test(item) && !ENDLESS.test(item));
  const numbers = items.slice(0, end < 0 ? items.length : end).map(Number);
  /** @type {Weights} */
  let weights = numbers.length
    ? fromNumbers(numbers, layout)
    : { layout, values: LAYOUTS[layout].blocks.map(() => rest), extra: {}, named: [], rest: null };
  for (const item of items.slice(numbers.length)) weights = applied(weights, item, own);
  return weights;
}

/** @param {number[]} numbers @param {string} layout @returns {Weights} */
export function fromNumbers(numbers, layout) {
  if (!numbers.every(Number.isFinite)) throw new WeightsError("Weights must be finite numbers.");
  if (numbers.length === 1) {
    return { layout, values: LAYOUTS[layout].blocks.map(() => numbers[0]), extra: {}, named: null, rest: numbers[0] };
  }
  for (const id of candidates(numbers.length, layout)) {
    const found = listed(numbers, id);
    if (found) return found;
  }
  throw new WeightsError(`${numbers.length} numbers are given. Expected ${expectedCounts(layout)}.`);
}

/** The layouts that a list can be for, in the order in which they are tried. @param {number} count @param {string} layout */
export function candidates(count, layout) {
  const unets = LAYOUTS[layout].arms ? ["sd1", "sdxl"] : [];
  return [layout, ...unets, ...(count > LONGEST_OF_UNETS ? Object.keys(LAYOUTS) : [])];
}

/** A list of numbers for a layout, or null where the count does not fit. @param {number[]} numbers @param {string} id @returns {Weights | null} */
export function listed(numbers, id) {
  const { blocks, stacks } = LAYOUTS[id];
  /** @type {Weights} */
  const weights = { layout: id, values: numbers, extra: {}, named: null, rest: null };
  const apart = numbers.length - blocks.length;
  if (apart === 0) return weights;
  if (apart === 1) return { ...weights, values: numbers.slice(1), extra: { BASE: numbers[0] } };
  if (apart === 2) return { ...weights, values: numbers.slice(1, -1), extra: { BASE: numbers[0], VAE: numbers[numbers.length - 1] } };
  const [double, single] = ["D", "S"].map((letter) => stacks.find((stack) => stack.letter === letter)?.blocks ?? []);
  if (!double.length || !single.length) return null;
  if (stacks.length !== 2 && !(double.length === 19 && single.length === 38)) return null;
  const flux = [...double, ...single];
  const more = numbers.length - flux.length;
  if (![0, 1, 4].includes(more)) return null;
  const inner = more === 4 ? numbers.slice(3, -1) : numbers.slice(more);
  /** @type {Record<string, number>} */
  const extra = more === 4 ? { CLIP: numbers[0], T5: numbers[1], IN: numbers[2], OUT: numbers[numbers.length - 1] } : more ? { BASE: numbers[0] } : {};
  const values = blocks.map((block) => (flux.includes(block) ? inner[flux.indexOf(block)] : 0));
  return { ...weights, values, extra, named: flux };
}

/** @param {string} layout */
export function expectedCounts(layout) {
  if (LAYOUTS[layout].arms) return "25 or 26 (SD1), 19, 20 or 21 (SDXL)";
  const { length } = LAYOUTS[layout].blocks;
  return `${length}, or ${length + 1} with BASE first (${LAYOUTS[layout].title})`;
}

/**
 * The text of weights, which reads back equal: one number and what differs from it, pairs where not all blocks
 * are named, else a list.
 * @param {Weights} weights
 */
export function format({ layout, values, extra, named, rest, off = [] }) {
  const { blocks, name, arms } = LAYOUTS[layout];
  const others = { ...extra };
  const pairs = (/** @type {(block: string, index: number) => boolean} */ which) =>
    blocks.flatMap((block, index) => (which(block, index) ? [`${block}=${numberText(values[index])}`] : []));
  const apart = () => [...Object.keys(others).sort().map((key) => `${key}=${numberText(others[key])}`), ...off.map((block) => `${block}=off`)];
  if (rest !== null && rest !== undefined) {
    return [numberText(rest), ...pairs((block, index) => values[index] !== rest && !off.includes(block)), ...apart()].join(", ");
  }
  if (named && !blocks.every((block) => named.includes(block))) {
    return [...pairs((block) => named.includes(block) && !off.includes(block)), ...apart()].join(", ");
  }
  const numbers = [...values];
  if ("BASE" in others) {
    numbers.unshift(others.BASE);
    if ("VAE" in others) {
      numbers.push(others.VAE);
      delete others.VAE;
    }
    delete others.BASE;
  }
  const label = !arms && layoutNamed(name) ? `${name}: ` : "";
  return label + [...numbers.map(numberText), ...apart()].join(", ");
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
  return PRESETS[layout] ?? stretched(LAYOUTS[layout].blocks.length);
}

/** Values of a preset in a layout, the user's own before the built-in ones; undefined when there is none.
 * @param {string} name @param {string} layout @param {Record<string, number[]>} own */
export function presetValues(name, layout, own = {}) {
  if (Object.hasOwn(own, name)) return own[name];
  const known = { ...stretched(LAYOUTS[layout].blocks.length, true), ...builtIn(layout) };
  return Object.hasOwn(known, name) ? known[name] : undefined;
}

/** @param {Weights} weights @param {string} item @param {Record<string, number[]>} own @returns {Weights} */
function applied(weights, item, own) {
  const [name, ...rest] = item.split("=").map((part) => part.trim());
  const layout = LAYOUTS[weights.layout];
  if (!rest.length) {
    const values = presetValues(name, weights.layout, own);
    if (!values) throw new WeightsError(`Unknown preset ${JSON.stringify(name)}.`);
    const chosen = fromNumbers(values, weights.layout);
    const known = chosen.layout === weights.layout ? weights.values : LAYOUTS[chosen.layout].blocks.map(() => 0);
    const set = chosen.named ?? LAYOUTS[chosen.layout].blocks;
    const named = chosen.named && weights.named ? [...new Set([...weights.named, ...chosen.named])] : null;
    const mixed = chosen.values.map((value, index) => (set.includes(LAYOUTS[chosen.layout].blocks[index]) ? value : known[index]));
    return { ...chosen, values: mixed, extra: { ...weights.extra, ...chosen.extra }, named, rest: chosen.rest ?? weights.rest };
  }
  const bypassed = rest.length === 1 && rest[0].toLowerCase() === "off";
  const value = rest.length === 1 && NUMBER.test(rest[0]) ? Number(rest[0]) : NaN;
  if (!bypassed && !Number.isFinite(value)) throw new WeightsError(`${JSON.stringify(rest.join("="))} is not a number.`);
  const names = blocksOf(layout, name);
  if (!names) throw new WeightsError(`Unknown block ${JSON.stringify(name)} for ${layout.title}.`);
  if (bypassed) {
    const named = weights.named && [...new Set([...weights.named, ...names])];
    return { ...weights, named, off: [...new Set([...(weights.off ?? []), ...names])] };
  }
  return names.reduce((changed, block) => withValue(changed, block, value), weights);
}

/** The weights with one more block or name set. @param {Weights} weights @param {string} key @param {number} value @returns {Weights} */
export function withValue(weights, key, value) {
  if (weights.unknown?.[key] !== undefined) {
    const { [key]: _, ...unknown } = weights.unknown;
    weights = { ...weights, unknown };
  }
  const index = LAYOUTS[weights.layout].blocks.indexOf(key);
  if (index < 0) return { ...weights, extra: { ...weights.extra, [key]: value } };
  const named = weights.named && !weights.named.includes(key) ? [...weights.named, key] : weights.named;
  const changed = { ...weights, values: weights.values.with(index, value), named };
  return weights.off?.includes(key) ? { ...changed, off: weights.off.filter((block) => block !== key) } : changed;
}
