// @ts-check
/**
 * Block specs as the deck reads and writes them: names, ranges, steps, groups, weights. What else the full
 * grammar of `blocks/spec.py` knows (inner layers, other dialects) is kept as it stands in `others`.
 */

import { LAYOUTS, PROMPTED, place, span } from "./blocks.mjs";
import { WeightsError, numberText, parse } from "./weights.mjs";

/**
 * @typedef {object} Choice
 * @property {number} weight
 * @property {string} suffix window and part, as `@0.0-0.4/k`
 * @typedef {object} Spec
 * @property {string} layout
 * @property {Map<string, Choice>} chosen
 * @property {string[]} others items that are not about whole blocks by name
 */

const ITEM = /^([^=@/]+?)\s*((?:[=@/].*)?)$/;
const WEIGHT = /=\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)/;
const SUFFIX = /^(?:\s*(?:@\s*s?[\d.]+\s*-\s*[\d.]+|\/\s*(?:k|v|kv)))*\s*$/i;
const STEP = /\s*\(\s*\+\s*(\d+)\s*\)$/;
const SHORTEST_LIST = 10;
const COARSE = 4;
const NATIVE = { sd1: 64, sdxl: 128 };
const ONLY_SD1 = /(?:IN|OUT)_?(?:09|9|10|11)\b/i;

/** @param {string} text @param {string} [layout] @returns {Spec} */
export function read(text, layout = "sd1") {
  const id = ONLY_SD1.test(text) ? "sd1" : layout;
  const listed = readList(text, id);
  if (listed) return listed;
  /** @type {Spec} */
  const spec = { layout: id, chosen: new Map(), others: [] };
  /** @type {Choice | null} */
  let otherwise = null;
  for (const item of text.split(/[,;\n](?![^(]*\))/).map((part) => part.trim()).filter(Boolean)) {
    const [, body, marks] = ITEM.exec(item) ?? ["", item, ""];
    const suffix = marks.replace(WEIGHT, "").trim();
    const choice = { weight: Number(WEIGHT.exec(marks)?.[1] ?? 1), suffix };
    const blocks = named(body, id);
    if (!SUFFIX.test(suffix) || (!blocks && body !== "_")) spec.others.push(item);
    else if (body === "_") otherwise = choice;
    else for (const block of blocks ?? []) spec.chosen.set(block, choice);
  }
  if (otherwise) for (const block of PROMPTED[id]) if (!spec.chosen.has(block)) spec.chosen.set(block, otherwise);
  return spec;
}

/** The shortest text of a spec: runs of blocks with the same weight become ranges. @param {Spec} spec */
export function write({ layout, chosen, others }) {
  const order = PROMPTED[/** @type {keyof PROMPTED} */ (layout)];
  /** @type {string[][]} */
  const runs = [];
  for (const block of order) {
    const mark = markOf(chosen.get(block));
    const last = runs.at(-1)?.at(-1);
    const follows = last && order.indexOf(last) === order.indexOf(block) - 1 && markOf(chosen.get(last)) === mark;
    if (mark !== null && follows) runs.at(-1)?.push(block);
    else if (mark !== null) runs.push([block]);
  }
  const items = runs.flatMap((run) => {
    const mark = markOf(chosen.get(run[0]));
    if (run.length === order.length) return [`all${mark}`];
    if (run.length < 3) return run.map((block) => block + mark);
    return [`${run[0]}-${run.at(-1)}${mark}`];
  });
  return [...items, ...others].join(", ");
}

/** Group names that select blocks of a layout, for the deck's buttons and for reading. @param {string} layout */
export function groups(layout) {
  const blocks = PROMPTED[/** @type {keyof PROMPTED} */ (layout)];
  const native = NATIVE[/** @type {keyof NATIVE} */ (layout)];
  const size = (/** @type {string} */ block) => resolution(layout, block);
  /** @type {Record<string, string[]>} */
  const found = {
    all: blocks,
    down: blocks.filter((block) => block.startsWith("IN")),
    mid: blocks.filter((block) => block === "M00"),
    up: blocks.filter((block) => block.startsWith("OUT")),
    coarse: blocks.filter((block) => size(block) <= native / COARSE),
    fine: blocks.filter((block) => size(block) > native / COARSE),
  };
  for (const block of blocks) (found[size(block)] ??= []).push(block);
  return found;
}

/** Side of the latent that a block works on, at the model's native size. @param {string} layout @param {string} block */
export function resolution(layout, block) {
  const { side, level } = place(LAYOUTS[layout], block);
  const deepest = LAYOUTS[layout].arms / 3 - 1;
  return NATIVE[/** @type {keyof NATIVE} */ (layout)] >> (side === "middle" ? deepest : level);
}

/** @param {string} body @param {string} layout @returns {string[] | null} */
function named(body, layout) {
  const step = STEP.exec(body);
  const text = body.replace(STEP, "").trim();
  const prompted = PROMPTED[/** @type {keyof PROMPTED} */ (layout)];
  const every = step ? Number(step[1]) : 1;
  const group = groups(layout)[text.toLowerCase()];
  const blocks = group ?? span(LAYOUTS[layout], text);
  if (!blocks || every < 1) return null;
  const chosen = blocks.filter((block, i) => i % every === 0 && prompted.includes(block));
  return chosen.length ? chosen : null;
}

/** @param {string} text @param {string} layout @returns {Spec | null} */
function readList(text, layout) {
  const preset = /^[A-Z][A-Z0-9_*/-]*$/.test(text.trim()) && !/^(IN|OUT|M)\d+$/.test(text.trim());
  if (!preset && !(text.split(",").length >= SHORTEST_LIST && /^\s*[-+\d.]/.test(text))) return null;
  try {
    const { layout: id, values } = parse(text, layout);
    const blocks = LAYOUTS[id].blocks;
    const chosen = new Map();
    for (const block of PROMPTED[/** @type {keyof PROMPTED} */ (id)]) {
      const weight = values[blocks.indexOf(block)];
      if (weight) chosen.set(block, { weight, suffix: "" });
    }
    return { layout: id, chosen, others: [] };
  } catch (error) {
    if (error instanceof WeightsError) return null;
    throw error;
  }
}

/** @param {Choice | undefined} choice */
function markOf(choice) {
  if (!choice) return null;
  return (choice.weight === 1 ? "" : `=${numberText(choice.weight)}`) + choice.suffix;
}
