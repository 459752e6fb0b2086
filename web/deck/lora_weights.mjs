// @ts-check
/**
 * The weights of a LoRA as text, read as `merge/lora/weights.py` does: the forms of weights.mjs, and the lists,
 * letters and presets of LoRA Block Weight. Blocks that are not named keep 1; a list gives the others 0.
 */

import { LAYOUTS, MIDDLE, layoutNamed } from "./blocks.mjs";
import { LISTS, PRESETS, SDXL_PRESETS } from "./lora_lists.mjs";
import { NUMBER, WeightsError, candidates, expectedCounts, format, listed, numberText, parse, withValue } from "./weights.mjs";

/**
 * @typedef {import("./weights.mjs").Weights} Weights
 * @typedef {Record<string, number | undefined>} Letters the values of A and B; undefined where only a run knows them
 * @typedef {number | string} Late a number, or the letter that a run replaces
 */

const LETTER = /^[RUABab]$/;
const PARTS = [0, 1, 2].map((part) => `${MIDDLE}.${part}`);

/**
 * Read a weight text of a LoRA node.
 * @param {string} text @param {string} [layout] @param {Record<string, number[]>} [own] the user's presets
 * @param {Letters} [letters] @returns {Weights}
 */
export function parseLora(text, layout = "sd1", own = {}, letters = { A: 1, B: 0 }) {
  text = String(text ?? "").trim() || "1";
  const [label, body] = split(text);
  layout = layoutNamed(label) ?? layout;
  const items = body.replace(/,+$/, "").split(",").map((item) => item.trim());
  const end = items.findIndex((item) => !isValue(item));
  const count = end < 0 ? items.length : end;
  const preset = (/** @type {string} */ item, /** @type {string} */ id) => (Object.hasOwn(own, item) ? undefined : presetOf(item, id));
  const last = items.findLastIndex((item, place) => (place < count ? LETTER.test(item) : LETTER.test(pair(item)[1]) || preset(item, layout) !== undefined));
  const special = last >= 0 || candidates(count, layout).some((id) => LISTS[id]?.[count] || (count > 1 && listed(Array(count).fill(0), id)?.named));
  const plain = special ? null : parse(text, layout, own, 1);
  if (plain && count <= 1) return plain;
  /** @type {Weights} */
  let found = count ? numbers(items.slice(0, count), candidates(count, layout), letters) : numbers(["1"], [layout], letters);
  /** @type {Weights["source"]} */
  let source;
  const kept = Math.max(count, last + 1);
  const keep = (/** @type {number} */ upTo) => {
    if (special && upTo === kept) source = { text: (label ? `${label}: ` : "") + items.slice(0, kept).join(", "), weights: found };
  };
  keep(count);
  for (const [place, item] of items.entries()) {
    if (place < count) continue;
    if (isValue(item)) throw new WeightsError(`${JSON.stringify(item)} is for no block. A list comes first. Write a block and its weight, as in IN04=0.5.`);
    const list = preset(item, found.layout)?.split(",");
    if (list) found = numbers(list, place ? [found.layout] : candidates(list.length, layout), letters);
    else found = over(found, item, own, letters);
    keep(place + 1);
  }
  if (!plain) return { ...found, source };
  return found.extra.BASE === (plain.extra.BASE ?? 1) ? plain : { ...plain, extra: found.extra };
}

/**
 * The text of a LoRA's weights: what LoRA Block Weight has of it stays as it is, changes follow as names.
 * @param {Weights} weights
 */
export function formatLora(weights) {
  const { source, values, extra, unknown = {} } = weights;
  if (!source) return formatPlain(weights);
  const { text, weights: before } = source;
  const differs = (/** @type {string} */ key, /** @type {number} */ now, /** @type {number | undefined} */ then) =>
    !Object.hasOwn(unknown, key) && (now !== then || Object.hasOwn(before.unknown ?? {}, key));
  const blocks = LAYOUTS[weights.layout].blocks.flatMap((block, index) => (
    differs(block, values[index], before.values[index]) ? [`${block}=${numberText(values[index])}`] : []
  ));
  const apart = Object.keys(extra).filter((key) => key !== "BASE" && differs(key, extra[key], before.extra[key])).sort();
  if (apart.includes("CLIP") || differs("BASE", extra.BASE, before.extra.BASE)) apart.push("BASE"); // CLIP sets BASE, too
  return [text, ...blocks, ...apart.map((key) => `${key}=${numberText(extra[key])}`)].join(", ");
}

/** A text without forms of LoRA Block Weight: VAE is not in the list, whose length would be one of LoRA Block Weight. @param {Weights} weights */
function formatPlain(weights) {
  const { VAE, ...extra } = weights.extra;
  const { BASE, ...others } = extra;
  const last = "CLIP" in others && BASE !== undefined ? { VAE, BASE } : { VAE };
  const text = format({ ...weights, extra: "BASE" in last ? others : extra });
  return [text, ...Object.entries(last).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${numberText(value)}`]))].filter(Boolean).join(", ");
}

/** Weights that are written without the text that they were read from. @param {Weights} weights @returns {Weights} */
export function known({ unknown: _, source: __, ...weights }) {
  return weights;
}

/**
 * Weights with a changed list; null where the change needs a number that only a run knows.
 * @param {Weights} weights @param {(values: number[]) => number[]} how @param {(value: number) => number} [one]
 * @returns {Weights | null}
 */
export function reshaped(weights, how, one) {
  const { layout, values, unknown = {} } = weights;
  const { blocks } = LAYOUTS[layout];
  const changed = how(values);
  const others = values.map((value, index) => (blocks[index] in unknown ? value + 1 : value));
  const again = how(others);
  const kept = blocks.filter((block, index) => block in unknown && changed[index] === values[index] && again[index] === others[index]);
  if (blocks.some((block, index) => changed[index] !== again[index] && !kept.includes(block))) return null;
  if (!kept.length && !("BASE" in unknown)) {
    return { ...known(weights), values: changed, named: null, rest: weights.rest === null || !one ? null : one(weights.rest) };
  }
  return changed.reduce((found, value, index) => (kept.includes(blocks[index]) ? found : withValue(found, blocks[index], value)), weights);
}

/** Whether a text is the name of one preset of LoRA Block Weight. @param {string} text @param {string} layout */
export function isLoraPreset(text, layout) {
  return presetOf(text.trim(), layout) !== undefined;
}

/** The presets of LoRA Block Weight that fit a layout, with what the bars show of them. @param {string} layout @param {Letters} [letters] */
export function loraPresets(layout, letters) {
  return Object.keys(PRESETS).flatMap((name) => {
    try {
      const found = parseLora(name, layout, {}, letters);
      return found.layout === layout ? [{ name, values: found.values }] : [];
    } catch (error) {
      if (!(error instanceof WeightsError)) throw error;
      return []; // a list for another number of blocks
    }
  });
}

/** The list of a preset, or undefined. @param {string} item @param {string} layout */
function presetOf(item, layout) {
  const short = item.replace(/^SD-/, "");
  const name = Object.hasOwn(PRESETS, short) ? short : item;
  if (layout === "sdxl" && Object.hasOwn(SDXL_PRESETS, name)) return SDXL_PRESETS[name];
  return Object.hasOwn(PRESETS, name) ? PRESETS[name] : undefined;
}

/** The label of a list, and the list; other texts have no label. @param {string} body @returns {[string, string]} */
function split(body) {
  const at = body.indexOf(":");
  const label = body.slice(0, Math.max(0, at)).trim();
  const rest = body.slice(at + 1).trim();
  return at < 0 || /[=,]/.test(label) || !isValue(rest.split(",")[0].trim()) ? ["", body] : [label, rest];
}

/** @param {string} item @returns {[string, string]} name and value; both empty for other items */
function pair(item) {
  const at = item.indexOf("=");
  return at < 0 ? ["", ""] : [item.slice(0, at).trim(), item.slice(at + 1).trim()];
}

/** @param {string} item */
function isValue(item) {
  return NUMBER.test(item) || LETTER.test(item);
}

/** @param {string} item @param {Letters} letters @returns {Late} */
function late(item, letters) {
  if (!LETTER.test(item)) {
    if (!Number.isFinite(Number(item))) throw new WeightsError("Weights must be finite numbers.");
    return Number(item);
  }
  const value = letters[item.toUpperCase()];
  return value === undefined ? item : item === "a" || item === "b" ? value / 2 : value;
}

/** One number or letter for everything, or a list of them. @param {string[]} items @param {string[]} layouts @param {Letters} letters @returns {Weights} */
function numbers(items, layouts, letters) {
  const values = items.map((item) => late(item, letters));
  if (values.length === 1) return settled(layouts[0], LAYOUTS[layouts[0]].blocks.map(() => values[0]), { BASE: values[0] });
  for (const id of layouts) {
    const names = LISTS[id]?.[values.length];
    if (names) {
      const byName = Object.fromEntries(names.map((name, index) => [name, values[index]]));
      const parts = PARTS.map((part) => byName[part]);
      if (parts[0] !== undefined) byName[MIDDLE] = parts.every((part) => part === parts[0] && part !== "R" && part !== "U") ? parts[0] : parts.join(" / ");
      return settled(id, LAYOUTS[id].blocks.map((block) => byName[block] ?? 0), { BASE: byName.BASE });
    }
    const found = listed(/** @type {any} */ (values), id);
    if (found) return settled(id, found.values, { ...found.extra, BASE: found.extra.BASE ?? found.extra.CLIP ?? 1 });
  }
  throw new WeightsError(`${values.length} numbers are given. Expected ${expectedCounts(layouts[0])}.`);
}

/** Weights with what only a run knows apart. @param {string} layout @param {Late[]} values @param {Record<string, Late>} extra @returns {Weights} */
function settled(layout, values, extra) {
  const pairs = [...LAYOUTS[layout].blocks.map((block, index) => /** @type {[string, Late]} */ ([block, values[index]])), ...Object.entries(extra)];
  const unknown = Object.fromEntries(pairs.filter(([, value]) => typeof value === "string"));
  const known = (/** @type {Late} */ value) => (typeof value === "string" ? 0 : value);
  return {
    layout, values: values.map(known), named: null, rest: null, unknown: /** @type {Record<string, string>} */ (unknown),
    extra: Object.fromEntries(Object.entries(extra).map(([key, value]) => [key, known(value)])),
  };
}

/** The weights with those that a later item names. @param {Weights} found @param {string} item @param {Record<string, number[]>} own @param {Letters} letters @returns {Weights} */
function over(found, item, own, letters) {
  const [name, value] = pair(item);
  const letter = LETTER.test(value) ? late(value, letters) : undefined;
  const later = parse(letter === undefined ? item : `${name}=${numberText(typeof letter === "number" ? letter : 0)}`, found.layout, own, 1);
  const { blocks } = LAYOUTS[found.layout];
  if (later.layout !== found.layout) throw new WeightsError(`${JSON.stringify(item)} is for another number of blocks.`);
  const extra = { ...later.extra };
  if ("CLIP" in extra) extra.BASE ??= extra.CLIP;
  const named = [...(later.named ?? blocks), ...Object.keys(extra)];
  const unknown = { ...found.unknown };
  for (const key of named) {
    if (typeof letter === "string") unknown[key] = letter;
    else delete unknown[key];
  }
  return {
    ...found, unknown, extra: { ...found.extra, ...extra }, off: later.off,
    values: found.values.map((old, index) => (named.includes(blocks[index]) ? later.values[index] : old)),
  };
}
