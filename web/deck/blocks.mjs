// @ts-check
/**
 * Layouts: the blocks of a model in the order of a weight list, as stacks, and where the deck draws each block.
 * U-Nets have the stacks IN, M and OUT and are drawn as a U; other models are drawn as columns side by side.
 */

import { NAMED } from "./layouts.mjs";

export const MIDDLE = "M00";

/**
 * @typedef {{letter: string, title: string, blocks: string[], levels?: number[]}} Stack levels: members of each level of a nested stack
 * @typedef {object} Layout
 * @property {string} id key of the layout in LAYOUTS
 * @property {string} name name of the layout in weight texts
 * @property {string} title
 * @property {Stack[]} stacks
 * @property {string[]} blocks all blocks, in the order of a weight list
 * @property {string[]} names all names outside the stacks
 * @property {string[]} apart those of them that the deck draws
 * @property {number} arms blocks in each arm of a U; 0 for columns
 * @typedef {object} Place
 * @property {"in" | "middle" | "out" | "column"} side
 * @property {number} column from 0
 * @property {number} row from 0 at the top
 * @property {number} level 0 at full resolution (three blocks each); in columns the number of the stack
 */

const COLUMNS = 5; // most columns that stay readable on a deck
const SHORTEST = 16; // rows of a column, at least, before another one starts
const HIDDEN = ["VAE", "CLIP", "T5"]; // not in the file of a transformer; a text can name them all the same

const TITLES = { sd1: "SD1", sdxl: "SDXL" };

/** Layouts by key: those that a text can name, and those of models that were seen. @type {Record<string, Layout>} */
export const LAYOUTS = {};
for (const [name, [stacks, apart]] of Object.entries(NAMED)) {
  const filled = stacks.map(([letter, title, count]) => ({ letter, title, blocks: numbered(letter, 0, count - 1) }));
  keep(name, name, filled, apart);
}

/** Blocks with cross-attention, where a prompt can go. */
export const PROMPTED = {
  sd1: ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", ...numbered("OUT", 3, 11)],
  sdxl: ["IN04", "IN05", "IN07", "IN08", "M00", ...numbered("OUT", 0, 5)],
};

/** @param {string} prefix @param {number} first @param {number} last */
function numbered(prefix, first, last) {
  const names = [];
  for (let n = first; n <= last; n++) names.push(prefix + String(n).padStart(2, "0"));
  return names;
}

/** @param {string} id @param {string} name @param {Stack[]} stacks @param {readonly string[]} apart */
function keep(id, name, stacks, apart) {
  const blocks = stacks.flatMap((stack) => stack.blocks);
  const [inputs, outputs] = ["IN", "OUT"].map((letter) => stacks.find((stack) => stack.letter === letter)?.blocks.length ?? 0);
  const u = inputs > 0 && inputs === outputs && stacks.length === 3 && blocks[inputs] === MIDDLE;
  const shown = u ? ["BASE", "VAE"] : apart.filter((other) => !HIDDEN.includes(other));
  LAYOUTS[id] = { id, name, title: /** @type {any} */ (TITLES)[name] ?? name, stacks, names: [...apart], apart: shown, blocks, arms: u ? inputs : 0 };
  return id;
}

/**
 * Make a model's layout known to the deck.
 * @param {{name: string, stacks: Stack[], apart?: string[]}} given as the server describes it
 * @returns {string} its key in LAYOUTS
 */
export function addLayout({ name, stacks, apart = ["BASE"] }) {
  const blocks = stacks.flatMap((stack) => stack.blocks).join();
  const same = Object.values(LAYOUTS).find((layout) => layout.name === name && layout.blocks.join() === blocks);
  return same?.id ?? keep([name, ...stacks.map((stack) => stack.letter + stack.blocks.length)].join(" "), name, stacks, apart);
}

/** The key of a layout that a text can name (`flux: ...`), or undefined. @param {string} label */
export function layoutNamed(label) {
  const name = label.trim().toLowerCase();
  return name === "sd2" ? "sd1" : Object.hasOwn(NAMED, name) ? name : undefined;
}

/** @type {WeakMap<Layout, Map<string, Place>>} */
const PLACES = new WeakMap();

/** Where the deck draws a block. @param {Layout} layout @param {string} block @returns {Place} */
export function place(layout, block) {
  let places = PLACES.get(layout);
  if (!places) PLACES.set(layout, (places = layout.arms ? placesOfU(layout) : placesOfColumns(layout)));
  const found = places.get(block);
  if (!found) throw new Error(`${block} is not a block of ${layout.id}`);
  return found;
}

/** @param {Layout} layout */
function placesOfU({ blocks, arms }) {
  return new Map(blocks.map((block, index) => {
    const row = Math.min(index, blocks.length - 1 - index);
    const side = /** @type {Place["side"]} */ (index < arms ? "in" : index === arms ? "middle" : "out");
    return [block, { side, column: side === "out" ? 1 : 0, row, level: Math.floor(row / 3) }];
  }));
}

/** The stacks one below another, each under its title, in as few columns as stay low enough. @param {Layout} layout */
function placesOfColumns({ stacks, blocks }) {
  const rows = Math.max(SHORTEST, Math.ceil((blocks.length + stacks.length) / COLUMNS) + 1);
  /** @type {Map<string, Place>} */
  const places = new Map();
  let column = 0;
  let row = 0;
  for (const [level, stack] of stacks.entries()) {
    const parts = Math.ceil(stack.blocks.length / (rows - 1));
    const height = Math.ceil(stack.blocks.length / parts);
    if (row && row + 1 + height > rows) [column, row] = [column + 1, 0];
    const top = row;
    for (const [index, block] of stack.blocks.entries()) {
      const part = Math.floor(index / height);
      places.set(block, { side: "column", column: column + part, row: top + 1 + (index % height), level });
    }
    column += parts - 1;
    row = top + 1 + height;
    if (parts > 1) [column, row] = [column + 1, 0];
  }
  return places;
}

/** Rows and columns that the deck's grid needs. @param {Layout} layout */
export function extent(layout) {
  const places = layout.blocks.map((block) => place(layout, block));
  return { columns: 1 + Math.max(...places.map(({ column }) => column)), rows: 1 + Math.max(...places.map(({ row }) => row)) };
}

/** The groups of blocks that can be changed together, by name. @param {Layout} layout @returns {Record<string, string[]>} */
export function groupsOf(layout) {
  /** @type {Record<string, string[]>} */
  const found = { all: layout.blocks };
  for (const { letter, blocks } of layout.stacks) found[letter] = blocks;
  if (layout.arms) {
    for (const block of layout.blocks) (found[`1/${scaleOf(layout, block)}`] ??= []).push(block);
    const prompted = PROMPTED[/** @type {keyof PROMPTED} */ (layout.id)];
    if (prompted) found.attention = prompted;
    return found;
  }
  for (const { letter, blocks } of layout.stacks.filter((stack) => stack.blocks.length >= 6)) {
    const third = Math.ceil(blocks.length / 3);
    for (let part = 0; part < 3; part++) found[`${letter} ${part + 1}/3`] = blocks.slice(part * third, (part + 1) * third);
  }
  return found;
}

/** How many times smaller than the latent a block of a U-Net works. @param {Layout} layout @param {string} block */
export function scaleOf(layout, block) {
  const { side, level } = place(layout, block);
  return 2 ** (side === "middle" ? layout.arms / 3 - 1 : level);
}

/** The blocks that the level tool moves with a block: one resolution of a U, a third of a stack. @param {Layout} layout @param {string} block */
export function levelOf(layout, block) {
  const groups = Object.entries(groupsOf(layout)).filter(([name]) => name.includes("/"));
  const found = groups.find(([, blocks]) => blocks.includes(block));
  return found?.[1] ?? layout.stacks.find(({ blocks }) => blocks.includes(block))?.blocks ?? [block];
}

/** @type {Record<string, string>} */
const ALIASES = { DOUBLE: "D", SINGLE: "S", JOINT: "J", INPUT: "IN", OUTPUT: "OUT" };

/**
 * The block that a loosely written name means (`in_4`, `MID`, `D3`, `double_3`, `transformer_blocks.7`), or null.
 * @param {Layout} layout @param {string} name
 */
export function canonical(layout, name) {
  const upper = name.trim().toUpperCase().replace(/\.+$/, "");
  const { blocks, stacks } = layout;
  if (blocks.includes(upper)) return upper;
  if (["MID", "M_00", "M0", "UNET_MID"].includes(upper)) return blocks.includes(MIDDLE) ? MIDDLE : null;
  const match = /^([A-Z][A-Z_]*?)_?(\d{1,3})$/.exec(upper);
  if (!match) return ownName(layout, name);
  const [, word, number] = match;
  const letters = stacks.map(({ letter }) => letter);
  let letter = ALIASES[word] ?? word;
  if (["LAYER", "BLOCK"].includes(word)) {
    letter = ["B", "J"].find((main) => letters.includes(main)) ?? (letters.length === 1 ? letters[0] : word);
  } else if (word === "IN" && letters.includes("J")) letter = "J"; // model-mixer: the joint blocks of SD3 are IN00-IN23
  const stack = stacks.find((other) => other.letter === letter) ?? stacks.find(({ title }) => title.toUpperCase() === word);
  return stack?.blocks[Number(number)] ?? null;
}

/** The block of ComfyUI's own name (`double_blocks.3`, `down_blocks.1.5`), or null. @param {Layout} layout @param {string} name */
function ownName({ stacks }, name) {
  const own = name.trim().replace(/\.+$/, "");
  const stack = stacks.find(({ title }) => own.startsWith(`${title}.`));
  const numbers = stack && own.slice(stack.title.length + 1).split(".");
  if (!stack || !numbers?.every((number) => /^\d{1,3}$/.test(number))) return null;
  const [outer, inner] = numbers.map(Number);
  if (!stack.levels) return numbers.length === 1 ? (stack.blocks[outer] ?? null) : null;
  if (numbers.length !== 2 || !(inner < stack.levels[outer])) return null;
  return stack.blocks[stack.levels.slice(0, outer).reduce((sum, count) => sum + count, 0) + inner];
}

/**
 * The blocks of `IN04`, `OUT03-OUT05` or `D00-07`, or null when it does not name any.
 * @param {Layout} layout @param {string} text
 */
export function span(layout, text) {
  const [start, end, ...rest] = text.split("-").map((part) => part.trim());
  const first = canonical(layout, start);
  if (!first || rest.length) return null;
  if (end === undefined) return [first];
  const stack = layout.stacks.find(({ blocks }) => blocks.includes(first));
  const last = canonical(layout, /^\d{1,3}$/.test(end) ? `${stack?.letter}${end}` : end);
  if (!last) return null;
  const low = layout.blocks.indexOf(first);
  const high = layout.blocks.indexOf(last);
  return low <= high ? layout.blocks.slice(low, high + 1) : null;
}

/**
 * All that a name of a weight text stands for: blocks, a stack, all blocks, or a name outside; null when unknown.
 * @param {Layout} layout @param {string} name
 */
export function blocksOf(layout, name) {
  const upper = name.trim().toUpperCase().replace(/\.+$/, "");
  if (upper === "ALL") return layout.blocks;
  const stack =
    !layout.names.includes(upper) &&
    layout.stacks.find(({ letter, title }) => title.toUpperCase() === upper || (!layout.arms && letter === upper));
  if (stack) return stack.blocks;
  return span(layout, name) ?? (layout.names.includes(upper) || ["BASE", "VAE", "CLIP"].includes(upper) ? [upper] : null);
}
