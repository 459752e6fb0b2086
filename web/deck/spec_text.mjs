// @ts-check
/**
 * Reads block specs as `blocks/spec.py` does: the same layers, weights, parts and times, or an error.
 * A test compares the two on random specs.
 */

import { LAYOUTS, PROMPTED } from "./blocks.mjs";
import { WeightsError, parse as parseWeights, presetValues } from "./weights.mjs";

/**
 * @typedef {{start: number, end: number, unit: "percent" | "step"}} Window
 * @typedef {{weight: number, part: "kv" | "k" | "v", window: Window | null}} Setting
 * @typedef {object} Block
 * @property {string} name
 * @property {string} side input, middle, output or block
 * @property {number} number within its side
 * @property {number} depth cross-attention layers inside
 * @property {number} resolution side of the latent it works on; 0 in transformers
 * @property {string} path its name in diffusers, or in ComfyUI for transformers
 * @property {number} place among the blocks of its resolution and direction, as P+ counts
 * @typedef {Map<string, Setting[]>} Settings by layer, `IN07.0`
 */

/** Text that cannot be read as a block spec. */
export class SpecError extends Error {}

const NUMBER = /^[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$/;
const SHORTEST_LIST = 10;
const LONGEST = 4000;
const LARGEST = 100;
const LAST_STEP = 10000;
const COARSE = 4;
const NATIVE = { sd1: 64, sdxl: 128 };
const DEPTHS = { IN04: 2, IN05: 2, IN07: 10, IN08: 10, M00: 10, OUT00: 10, OUT01: 10, OUT02: 10, OUT03: 2, OUT04: 2, OUT05: 2 };
const SIDES = { in: "input", out: "output", b: "block", d: "input", m: "middle", u: "output" };
const N = "(\\d{1,4}(?!\\d))";
const ENDPOINTS = Object.entries({
  name: `(IN|OUT|B)_?${N}`,
  middle: "(?:MID(?![a-z_])|M_?0{1,4}(?!\\d)|middle(?:_block)?[:.]0(?!\\d))",
  comfy: `(input|output)(?:_blocks)?[:.]${N}`,
  ordinal: `([dmu])${N}`,
  index: `idx:${N}`,
  diffusers: `((?:down|up)_blocks\\.\\d{1,4}(?!\\d)|mid_block)(?:\\.attentions\\.${N})?(?:\\.transformer_blocks(?=\\.\\d))?`,
  stack: `(?:[a-z]+_)*(?:transformer\\.layers|blocks?)[.:]${N}`,
  plus: `\\(\\s*${N}\\s*,\\s*(down|mid|up)\\s*,\\s*${N}\\s*\\)`,
}).map(([kind, pattern]) => /** @type {[string, RegExp]} */ ([kind, new RegExp(pattern, "iy")]));
const INNER = new RegExp(`\\.${N}(?:-${N}(?![:.]))?`, "y");

/** The blocks of a layout that a prompt reaches, by name. @param {string} layout @returns {string[]} */
export function prompted(layout) {
  const known = /** @type {Record<string, string[]>} */ (PROMPTED)[layout];
  return known ?? LAYOUTS[layout]?.stacks.find(({ letter }) => letter === "B")?.blocks ?? [];
}

/** All blocks of a layout in running order. @param {string} layout @returns {Block[]} */
export function blocksOf(layout) {
  const native = /** @type {Record<string, number>} */ (NATIVE)[layout];
  return native ? unetBlocks(layout, native) : stackBlocks(layout);
}

/** Group names and their blocks. @param {string} layout @returns {Record<string, Block[]>} */
export function groupsOf(layout) {
  const native = /** @type {Record<string, number>} */ (NATIVE)[layout];
  const attending = blocksOf(layout).filter(({ depth }) => depth);
  if (!native) return { all: attending };
  /** @type {Record<string, Block[]>} */
  const found = {
    all: attending,
    down: attending.filter(({ side }) => side === "input"),
    mid: attending.filter(({ side }) => side === "middle"),
    up: attending.filter(({ side }) => side === "output"),
    coarse: attending.filter(({ resolution }) => resolution <= native / COARSE),
    fine: attending.filter(({ resolution }) => resolution > native / COARSE),
  };
  for (const block of attending) (found[block.resolution] ??= []).push(block);
  return found;
}

/** The settings of every layer that a spec names; SpecError where Python has one. @param {string} text @param {string} layout */
export function settingsOf(text, layout) {
  const plain = folded(text);
  if (plain.length > LONGEST) throw new SpecError("too long");
  const listed = fromList(plain, layout);
  if (listed) return listed;
  const items = itemsOf(plain);
  if (!items.length) throw new SpecError("empty");
  const blocks = blocksOf(layout);
  const groups = groupsOf(layout);
  /** @type {Settings} */
  const chosen = new Map();
  /** @type {Setting[]} */
  let rest = [];
  for (const item of items) {
    const { body, setting } = split(item);
    if (body === "_") rest = laterWins(rest, setting);
    else for (const layer of select(body, blocks, groups)) chosen.set(layer, laterWins(chosen.get(layer) ?? [], setting));
  }
  /** @type {Settings} */
  const ordered = new Map();
  for (const layer of layersOf(blocks)) {
    const settings = chosen.get(layer) ?? (rest.length ? rest : null);
    if (settings) ordered.set(layer, settings);
  }
  return ordered;
}

/** The items of a spec, stripped; commas inside parentheses do not separate. @param {string} text */
export function itemsOf(text) {
  const items = [];
  let depth = 0;
  let start = 0;
  const plain = `${folded(text)},`;
  for (let place = 0; place < plain.length; place++) {
    const character = plain[place];
    depth = Math.max(0, depth + Number(character === "(") - Number(character === ")"));
    if (!",;\n".includes(character) || (depth && place < plain.length - 1)) continue;
    const inside = plain.slice(start, place).trim();
    if (inside) items.push(inside);
    [start, depth] = [place + 1, 0];
  }
  return items;
}

/** What an item names, and the setting its marks ask for. @param {string} item @returns {{body: string, setting: Setting}} */
export function split(item) {
  const places = [...item].map((letter, place) => ("=@/".includes(letter) ? place : -1)).filter((place) => place >= 0);
  /** @type {Setting} */
  const setting = { weight: 1, part: "kv", window: null };
  const seen = new Set();
  places.forEach((place, n) => {
    const mark = item[place];
    if (seen.has(mark)) throw new SpecError(`${mark} twice`);
    seen.add(mark);
    mark_(setting, mark, item.slice(place + 1, places[n + 1] ?? item.length).trim().toLowerCase());
  });
  return { body: item.slice(0, places[0] ?? item.length).trimEnd(), setting };
}

/** @param {Setting} setting @param {string} mark @param {string} value */
function mark_(setting, mark, value) {
  if (mark === "/") {
    if (!["kv", "k", "v"].includes(value)) throw new SpecError(`part ${value}`);
    setting.part = /** @type {Setting["part"]} */ (value);
  } else if (mark === "=") {
    if (!NUMBER.test(value) || value.length > 64) throw new SpecError(`weight ${value}`);
    setting.weight = Number(value);
    if (!(Math.abs(setting.weight) <= LARGEST)) throw new SpecError(`weight ${value}`);
  } else {
    const unit = value.startsWith("s") ? "step" : "percent";
    const ends = value.replace(/^s/, "").split("-").map((end) => end.trim());
    if (ends.length !== 2 || !ends.every((end) => NUMBER.test(end) && end.length <= 64)) throw new SpecError(`window ${value}`);
    const [start, end] = ends.map(Number);
    const fits = unit === "percent" ? end <= 1 : Number.isInteger(start) && Number.isInteger(end) && end <= LAST_STEP;
    if (!(start < end) || !fits) throw new SpecError(`window ${value}`);
    setting.window = { start, end, unit };
  }
}

/** The settings without what a later one takes over, and that one. @param {Setting[]} settings @param {Setting} later */
function laterWins(settings, later) {
  return [...settings.flatMap((old) => without(old, later)), later];
}

/** @param {Setting} old @param {Setting} later @returns {Setting[]} */
function without(old, later) {
  const common = /** @type {Setting["part"]} */ ([...old.part].filter((half) => later.part.includes(half)).join(""));
  if (!common) return [old];
  const kept = /** @type {Setting["part"]} */ ([...old.part].filter((half) => !later.part.includes(half)).join(""));
  const left = kept ? [{ ...old, part: kept }] : [];
  if (!later.window) return left;
  const { start, end, unit } = later.window;
  const window = old.window ?? (unit === "percent" ? { start: 0, end: 1, unit } : { start: 0, end: LAST_STEP, unit });
  if (window.unit !== unit) throw new SpecError("steps and shares");
  if (!(window.start < end && start < window.end)) return [old];
  const pieces = [{ start: window.start, end: start, unit }, { start: end, end: window.end, unit }];
  return [...left, ...pieces.filter((one) => one.start < one.end).map((one) => ({ ...old, part: common, window: one }))];
}

/** The layers that a selection names. @param {string} text @param {Block[]} blocks @param {Record<string, Block[]>} groups */
function select(text, blocks, groups) {
  const { body, step } = withoutStep(text);
  const group = Object.hasOwn(groups, body.trim().toLowerCase()) ? groups[body.trim().toLowerCase()] : null;
  if (group) return wholes(every(group, step));
  const first = endpoint(body, 0, blocks);
  const rest = body.slice(first.end).trim();
  if (!rest) return first.inner ? inners(first.blocks, every(first.inner, step)) : wholes(every(first.blocks, step));
  if (!rest.startsWith("-") || first.inner) throw new SpecError(`cannot read ${rest}`);
  const afterDash = body.slice(first.end).trimStart().slice(1).trimStart();
  const prefix = /^(?:[a-z]+[_.])*[a-z]+[:.]?/i.exec(body);
  const bare = /^\d+$/.test(afterDash.trim()) && prefix;
  const text2 = bare ? prefix[0] + afterDash.trim() : afterDash;
  const last = endpoint(text2, 0, blocks);
  if (last.inner || (!bare && text2.slice(last.end).trim())) throw new SpecError(`cannot read ${afterDash}`);
  const low = blocks.indexOf(first.blocks[0]);
  const high = blocks.indexOf(last.blocks[last.blocks.length - 1]);
  if (low > high) throw new SpecError("backwards");
  return wholes(every(blocks.slice(low, high + 1), step));
}

/** @param {string} text */
function withoutStep(text) {
  const body = text.trimEnd();
  const place = body.lastIndexOf("(");
  const match = place >= 0 && body.endsWith(")") ? /^\+\s*(\d{1,4})\s*$/.exec(body.slice(place + 1, -1).trim()) : null;
  if (!match) return { body: text, step: 1 };
  if (Number(match[1]) < 1) throw new SpecError("step 0");
  return { body: body.slice(0, place).trimEnd(), step: Number(match[1]) };
}

/** @param {string} text @param {number} start @param {Block[]} blocks @returns {{blocks: Block[], inner: number[] | null, end: number}} */
function endpoint(text, start, blocks) {
  for (const [kind, pattern] of ENDPOINTS) {
    pattern.lastIndex = start;
    const match = pattern.exec(text);
    if (!match) continue;
    const found = lookup(kind, match, blocks);
    if (!found.length) throw new SpecError(`unknown block ${match[0]}`);
    INNER.lastIndex = start + match[0].length;
    const inner = INNER.exec(text);
    if (!inner) return { blocks: found, inner: null, end: start + match[0].length };
    const low = Number(inner[1]);
    const high = Number(inner[2] ?? inner[1]);
    if (high >= Math.min(...found.map(({ depth }) => depth)) || low > high) throw new SpecError(`no layer ${inner[0]}`);
    const layers = Array.from({ length: high - low + 1 }, (_, n) => low + n);
    return { blocks: found, inner: layers, end: start + match[0].length + inner[0].length };
  }
  throw new SpecError(`unknown block ${text.slice(start)}`);
}

/** @param {string} kind @param {RegExpExecArray} match @param {Block[]} blocks @returns {Block[]} */
function lookup(kind, match, blocks) {
  const attending = blocks.filter(({ depth }) => depth);
  const at = (/** @type {string} */ side, /** @type {string} */ number) => blocks.filter((one) => one.side === side && one.number === Number(number));
  const side = /** @type {Record<string, string>} */ (SIDES)[(match[1] ?? "").toLowerCase()];
  if (kind === "name") return at(side, match[2]);
  if (kind === "middle") return at("middle", "0");
  if (kind === "comfy") return at(match[1].toLowerCase(), match[2]);
  if (kind === "stack") return at("block", match[1]);
  if (kind === "ordinal") return attending.filter((one) => one.side === side).slice(Number(match[2]), Number(match[2]) + 1);
  if (kind === "index") return attending.slice(Number(match[1]), Number(match[1]) + 1);
  if (kind === "plus") {
    const [resolution, direction, place] = [Number(match[1]), match[2].toLowerCase(), Number(match[3])];
    const down = (/** @type {Block} */ one) => (one.side === "output" ? "up" : "down");
    return attending.filter(
      (one) => one.resolution === resolution && (direction === "mid" ? one.side === "middle" && place === 0 : down(one) === direction && one.place === place),
    );
  }
  const stem = match[1].toLowerCase();
  if (match[2] === undefined) return attending.filter(({ path }) => path.startsWith(`${stem}.attentions.`));
  return attending.filter(({ path }) => path === `${stem}.attentions.${Number(match[2])}`);
}

/** @template T @param {T[]} list @param {number} step */
function every(list, step) {
  return list.filter((_, n) => n % step === 0);
}

/** @param {Block[]} blocks */
function layersOf(blocks) {
  return blocks.flatMap(({ name, depth }) => Array.from({ length: depth }, (_, n) => `${name}.${n}`));
}

/** @param {Block[]} blocks */
function wholes(blocks) {
  const found = layersOf(blocks);
  if (!found.length) throw new SpecError("no cross-attention");
  return found;
}

/** @param {Block[]} blocks @param {number[]} inner */
function inners(blocks, inner) {
  return blocks.flatMap(({ name }) => inner.map((n) => `${name}.${n}`));
}

/** A list of weights or a preset's name, or null. @param {string} text @param {string} layout @returns {Settings | null} */
function fromList(text, layout) {
  const name = text.trim();
  const preset = presetValues(name, layout) && !/^(IN|OUT|M|B)\d+$/.test(name);
  const first = text.split(",").slice(0, SHORTEST_LIST);
  if (!preset && !(first.length === SHORTEST_LIST && first.every((one) => NUMBER.test(one.trim())))) return null;
  try {
    const read = parseWeights(text, layout);
    if (read.layout !== layout) throw new SpecError("another layout's list");
    const names = LAYOUTS[layout].blocks;
    /** @type {Settings} */
    const settings = new Map();
    for (const { name: block, depth } of blocksOf(layout)) {
      const weight = read.values[names.indexOf(block)];
      if (Math.abs(weight) > LARGEST) throw new SpecError(`weight ${weight}`);
      for (let n = 0; weight && n < depth; n++) settings.set(`${block}.${n}`, [{ weight, part: "kv", window: null }]);
    }
    return settings;
  } catch (error) {
    throw error instanceof WeightsError ? new SpecError(error.message) : error;
  }
}

/** Full-width letters, digits and punctuation as ASCII. @param {string} text */
function folded(text) {
  return text
    .replace(/[\uff01-\uff5e]/g, (letter) => String.fromCharCode(letter.charCodeAt(0) - 0xfee0))
    .replace(/\u3000/g, " ")
    .replace(/\u3001/g, ",")
    .replace(/\u301c/g, "~");
}

/** @param {string} layout @param {number} native @returns {Block[]} */
function unetBlocks(layout, native) {
  const reached = prompted(layout);
  const names = LAYOUTS[layout].blocks;
  const arms = LAYOUTS[layout].arms;
  const deepest = arms / 3 - 1;
  /** @type {Record<string, number>} */
  const taken = {};
  /** @type {Record<string, number>} */
  const places = {};
  return names.map((name, n) => {
    const side = n < arms ? "input" : n === arms ? "middle" : "output";
    const number = side === "input" ? n : side === "middle" ? 0 : n - arms - 1;
    const level = side === "input" ? Math.max(0, Math.floor((number - 1) / 3)) : Math.floor(number / 3);
    const size = side === "input" ? level : deepest - (side === "middle" ? 0 : level);
    const depth = reached.includes(name) ? (layout === "sdxl" ? /** @type {Record<string, number>} */ (DEPTHS)[name] : 1) : 0;
    const stem = side === "middle" ? "mid_block" : `${side === "input" ? "down" : "up"}_blocks.${level}`;
    const resolution = native >> size;
    const direction = `${resolution} ${side === "output"}`;
    const path = `${stem}.attentions.${taken[stem] ?? 0}`;
    const place = places[direction] ?? 0;
    if (depth) {
      taken[stem] = (taken[stem] ?? 0) + 1;
      places[direction] = place + 1;
    }
    return { name, side, number, depth, resolution: side === "middle" ? native >> deepest : resolution, path, place };
  });
}

/** @param {string} layout @returns {Block[]} */
function stackBlocks(layout) {
  const title = LAYOUTS[layout]?.stacks.find(({ letter }) => letter === "B")?.title ?? "blocks";
  return prompted(layout).map((name, number) => ({ name, side: "block", number, depth: 1, resolution: 0, path: `${title}.${number}`, place: 0 }));
}
