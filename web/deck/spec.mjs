// @ts-check
/**
 * Block specs as the deck shows and changes them. A change never rewrites what it does not understand: lists of
 * block names are written anew, to every other text (groups, other dialects, inner layers, times) the change is added
 * at its end, where it wins.
 */

import { LAYOUTS, span } from "./blocks.mjs";
import { SpecError, blocksOf, groupsOf, itemsOf, prompted, settingsOf, split } from "./spec_text.mjs";
import { numberText, parse } from "./weights.mjs";

/**
 * @typedef {object} Choice
 * @property {number} weight
 * @property {string} suffix window and part, as `@0.0-0.4/k`; `...` where a block's layers or times differ
 * @typedef {object} Spec
 * @property {string} layout
 * @property {Map<string, Choice>} chosen
 * @property {string} error why the text cannot be read for this layout, or empty
 */

const ONLY_SD1 = /(?:IN|OUT)_?(?:09|9|10|11)\b/i;
const MIXED = " ...";

/** @param {string} text @param {string} [layout] @returns {Spec} */
export function read(text, layout = "sd1") {
  const id = listLayout(text, layout) ?? (layout === "sdxl" && ONLY_SD1.test(text) ? "sd1" : layout);
  /** @type {Spec} */
  const spec = { layout: id, chosen: new Map(), error: "" };
  if (!text.trim()) return spec;
  try {
    const settings = settingsOf(text, id);
    for (const { name, depth } of blocksOf(id)) {
      const layers = Array.from({ length: depth }, (_, n) => settings.get(`${name}.${n}`) ?? []);
      const choice = choiceOf(layers);
      if (choice) spec.chosen.set(name, choice);
    }
  } catch (error) {
    if (!(error instanceof SpecError)) throw error;
    spec.error = error.message;
  }
  return spec;
}

/**
 * The text after blocks are given a weight, or with null taken out.
 * @param {string} text @param {string} layout @param {string[]} blocks @param {number | null} weight
 */
export function chosen(text, layout, blocks, weight) {
  const spec = read(text, layout);
  if (spec.error) return text;
  if (isPlain(text, spec.layout)) {
    const changed = new Map(spec.chosen);
    for (const block of blocks) {
      if (weight === null) changed.delete(block);
      else changed.set(block, { weight, suffix: changed.get(block)?.suffix ?? "" });
    }
    return write({ ...spec, chosen: changed });
  }
  const items = itemsOf(text);
  const mine = (/** @type {string} */ item) => blocks.some((block) => item === block || item.startsWith(`${block}=`));
  while (items.length > 1 && mine(items[items.length - 1])) items.pop();
  const before = read(items.join(", "), spec.layout);
  for (const block of blocks) {
    const choice = before.chosen.get(block);
    const suffix = choice && choice.suffix !== MIXED ? choice.suffix : "";
    if (weight === null && choice) items.push(`${block}=0`);
    else if (weight !== null) items.push(block + markOf({ weight, suffix: choice ? suffix : "" }));
  }
  return items.join(", ");
}

/** The shortest text of whole blocks: runs with the same weight become ranges. @param {Pick<Spec, "layout" | "chosen">} spec */
export function write({ layout, chosen: given }) {
  const order = prompted(layout);
  /** @type {string[][]} */
  const runs = [];
  for (const block of order) {
    const mark = markOf(given.get(block));
    const last = runs.at(-1)?.at(-1);
    const follows = last && order.indexOf(last) === order.indexOf(block) - 1 && markOf(given.get(last)) === mark;
    if (mark !== null && follows) runs.at(-1)?.push(block);
    else if (mark !== null) runs.push([block]);
  }
  const items = runs.flatMap((run) => {
    const mark = markOf(given.get(run[0]));
    if (run.length === order.length) return [`all${mark}`];
    if (run.length < 3) return run.map((block) => block + mark);
    return [`${run[0]}-${run.at(-1)}${mark}`];
  });
  return items.join(", ");
}

/** Group names that select blocks of a layout, for the deck's buttons. @param {string} layout @returns {Record<string, string[]>} */
export function groups(layout) {
  return Object.fromEntries(Object.entries(groupsOf(layout)).map(([name, found]) => [name, found.map((block) => block.name)]));
}

/** Side of the latent that a block works on, at the model's native size; 0 in transformers. @param {string} layout @param {string} block */
export function resolution(layout, block) {
  return blocksOf(layout).find(({ name }) => name === block)?.resolution ?? 0;
}

/** Whether a text is a list of weights, or of block names and ranges, each block in one item. @param {string} text @param {string} layout */
function isPlain(text, layout) {
  if (!text.trim()) return true;
  const seen = new Set();
  for (const item of itemsOf(text)) {
    const { body, setting } = plainItem(item);
    if (!setting) return isList(text);
    const blocks = span(LAYOUTS[layout], body);
    if (!blocks || !/^(IN|OUT|M|B)/i.test(body)) return isList(text);
    for (const block of blocks) {
      if (seen.has(block)) return false;
      seen.add(block);
    }
  }
  return true;
}

/** The layout that a list of numbers is for, by their count; null for other texts. @param {string} text @param {string} layout */
function listLayout(text, layout) {
  if (!/^\s*[-+.\d]/.test(text) || !isList(text)) return null;
  try {
    const { layout: id } = parse(text, layout);
    return prompted(id).length ? id : null;
  } catch {
    return null;
  }
}

/** @param {string} item */
function plainItem(item) {
  try {
    return split(item);
  } catch {
    return { body: item, setting: null };
  }
}

/** A list of numbers or a preset, which `settingsOf` has read as such. @param {string} text */
function isList(text) {
  return /^\s*[-+.\d]/.test(text) ? text.split(",").length >= 10 : /^[A-Z][A-Z0-9_*/-]*$/.test(text.trim()) && !/^(IN|OUT|M|B)\d+$/.test(text.trim());
}

/** @param {import("./spec_text.mjs").Setting[][]} layers @returns {Choice | null} */
function choiceOf(layers) {
  const named = layers.filter((settings) => settings.some(({ weight }) => weight !== 0));
  if (!named.length) return null;
  const texts = new Set(layers.map((settings) => JSON.stringify(settings)));
  const [first] = named[0].filter(({ weight }) => weight !== 0);
  if (texts.size > 1 || named[0].length > 1) return { weight: (named[0].at(-1) ?? first).weight, suffix: MIXED };
  return { weight: first.weight, suffix: suffixOf(first) };
}

/** @param {import("./spec_text.mjs").Setting} setting */
function suffixOf({ window, part }) {
  const time = window ? `@${window.unit === "step" ? "s" : ""}${numberText(window.start)}-${numberText(window.end)}` : "";
  return time + (part === "kv" ? "" : `/${part}`);
}

/** @param {Choice | undefined} choice */
function markOf(choice) {
  if (!choice) return null;
  return (choice.weight === 1 ? "" : `=${numberText(choice.weight)}`) + choice.suffix;
}
