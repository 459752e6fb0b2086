// @ts-check
/**
 * Layouts: the blocks of a model in the order of a weight list, as stacks, and where the deck draws each block.
 * U-Nets have the stacks IN, M and OUT and are drawn as a U; other models are drawn as columns side by side.
 */

export const MIDDLE = "M00";

/**
 * @typedef {{letter: string, title: string, blocks: string[]}} Stack
 * @typedef {object} Layout
 * @property {string} id key of the layout in LAYOUTS
 * @property {string} name name of the layout in weight texts
 * @property {string} title
 * @property {Stack[]} stacks
 * @property {string[]} blocks all blocks, in the order of a weight list
 * @property {string[]} apart names outside the stacks that the deck draws
 * @property {number} arms blocks in each arm of a U; 0 for columns
 * @typedef {object} Place
 * @property {"in" | "middle" | "out" | "column"} side
 * @property {number} column from 0
 * @property {number} row from 0 at the top
 * @property {number} level 0 at full resolution (three blocks each); in columns the number of the stack
 */

const COLUMNS = 5; // most columns that stay readable on a deck
const SHORTEST = 16; // rows of a column, at least, before another one starts
const APART = ["BASE", "VAE"];

/** @type {Record<string, Layout>} */
export const LAYOUTS = { sd1: unet("sd1", "SD1", 12), sdxl: unet("sdxl", "SDXL", 9) };

/** Blocks with cross-attention, where a prompt can go. */
export const PROMPTED = {
  sd1: ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", ...numbered("OUT", 3, 11)],
  sdxl: ["IN04", "IN05", "IN07", "IN08", "M00", ...numbered("OUT", 0, 5)],
};

/** @param {string} id @param {string} title @param {number} arms @returns {Layout} */
function unet(id, title, arms) {
  const stacks = [
    { letter: "IN", title: "IN", blocks: numbered("IN", 0, arms - 1) },
    { letter: "M", title: "M", blocks: [MIDDLE] },
    { letter: "OUT", title: "OUT", blocks: numbered("OUT", 0, arms - 1) },
  ];
  return { id, name: id, title, stacks, apart: APART, arms, blocks: stacks.flatMap(({ blocks }) => blocks) };
}

/** @param {string} prefix @param {number} first @param {number} last */
function numbered(prefix, first, last) {
  const names = [];
  for (let n = first; n <= last; n++) names.push(prefix + String(n).padStart(2, "0"));
  return names;
}

/**
 * Make a model's layout known to the deck.
 * @param {{name: string, title?: string, stacks: Stack[], apart?: string[]}} given as the server describes it
 * @returns {string} its key in LAYOUTS
 */
export function addLayout({ name, title, stacks, apart = APART }) {
  const blocks = stacks.flatMap((stack) => stack.blocks);
  const known = Object.values(LAYOUTS).find((layout) => layout.blocks.join() === blocks.join() && layout.apart.join() === apart.join());
  if (known && (known.name === name || name in LAYOUTS)) return known.id;
  const inputs = stacks.find(({ letter }) => letter === "IN")?.blocks.length ?? 0;
  const outputs = stacks.find(({ letter }) => letter === "OUT")?.blocks.length ?? 0;
  const u = inputs === outputs && stacks.length === 3 && blocks[inputs] === MIDDLE;
  const key = [name, ...stacks.map((stack) => stack.letter + stack.blocks.length), ...apart].join(" ");
  LAYOUTS[key] = { id: key, name, title: title ?? name, stacks, apart, blocks, arms: u ? inputs : 0 };
  return key;
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

/**
 * The block that a loosely written name means (`in_4`, `MID`, `D3`), or null.
 * @param {Layout} layout @param {string} name
 */
export function canonical(layout, name) {
  const upper = name.trim().toUpperCase();
  if (layout.blocks.includes(upper)) return upper;
  if (["MID", "M_00", "M0"].includes(upper) && layout.blocks.includes(MIDDLE)) return MIDDLE;
  const match = /^([A-Z]+)_?(\d{1,3})$/.exec(upper);
  const block = match ? match[1] + String(Number(match[2])).padStart(2, "0") : upper;
  return layout.blocks.includes(block) ? block : null;
}

/**
 * The blocks of `IN04` or `OUT03-OUT05`, or null when it does not name any.
 * @param {Layout} layout @param {string} text
 */
export function span(layout, text) {
  const [first, last, ...rest] = text.split("-").map((part) => canonical(layout, part));
  if (!first || rest.length || last === null) return null;
  if (last === undefined) return [first];
  const low = layout.blocks.indexOf(first);
  const high = layout.blocks.indexOf(last);
  return low <= high ? layout.blocks.slice(low, high + 1) : null;
}
