// @ts-check
/** Block names of the two layouts an MBW list can address, and where each block stands in the U. */

export const MIDDLE = "M00";

/**
 * @typedef {object} Layout
 * @property {string} id
 * @property {string} title
 * @property {number} arms blocks in each arm
 * @property {string[]} blocks names in the order of an MBW list
 */

/** @type {Record<string, Layout>} */
export const LAYOUTS = { sd1: layout("sd1", "SD1", 12), sdxl: layout("sdxl", "SDXL", 9) };

/** Blocks with cross-attention, where a prompt can go. */
export const PROMPTED = {
  sd1: ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", ...numbered("OUT", 3, 11)],
  sdxl: ["IN04", "IN05", "IN07", "IN08", "M00", ...numbered("OUT", 0, 5)],
};

/** @param {string} id @param {string} title @param {number} arms @returns {Layout} */
function layout(id, title, arms) {
  const blocks = [...numbered("IN", 0, arms - 1), MIDDLE, ...numbered("OUT", 0, arms - 1)];
  return { id, title, arms, blocks };
}

/** @param {string} prefix @param {number} first @param {number} last */
function numbered(prefix, first, last) {
  const names = [];
  for (let n = first; n <= last; n++) names.push(prefix + String(n).padStart(2, "0"));
  return names;
}

/**
 * Where a block stands: `side` in/middle/out, `row` 0 at the top, `level` 0 at full resolution (three blocks each).
 * @param {Layout} layout @param {string} block
 */
export function place(layout, block) {
  const index = layout.blocks.indexOf(block);
  const row = Math.min(index, layout.blocks.length - 1 - index);
  const side = index < layout.arms ? "in" : index === layout.arms ? "middle" : "out";
  return { side, row, level: Math.floor(row / 3) };
}

/**
 * The block a loosely written name means (`in_4`, `MID`), or null.
 * @param {Layout} layout @param {string} name
 */
export function canonical(layout, name) {
  const upper = name.trim().toUpperCase();
  if (["MID", "M00", "M_00", "M0"].includes(upper)) return MIDDLE;
  const match = /^(IN|OUT)_?(\d{1,2})$/.exec(upper);
  const block = match ? match[1] + String(Number(match[2])).padStart(2, "0") : upper;
  return layout.blocks.includes(block) ? block : null;
}

/**
 * The blocks of `IN04` or `OUT03-OUT05`, or null when it names none.
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
