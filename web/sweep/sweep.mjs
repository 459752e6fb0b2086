// @ts-check
/** A finished sweep as the node reports it: which cell is where, how hot it is, which one comes next. */

/**
 * @typedef {{filename: string, subfolder: string, type: string}} File
 * @typedef {object} Cell
 * @property {string} label such as `IN04 = 0.75`
 * @property {string | null} block null for the unmodified model
 * @property {[number, number]} place column and row in the U
 * @property {File} file the cell's pictures
 * @property {number[]} rms how far each picture moved; empty for the unmodified model
 * @property {number[]} cosine the same by image embeddings; empty where none were measured
 * @property {string} [about] written in the place of how far it moved
 * @property {string} [weights] its weights, where the label does not say them
 * @typedef {object} Sweep
 * @property {Record<string, string>} units by measure
 * @property {Cell[]} cells the unmodified model first
 * @property {boolean} [alone] whether the first one is not what the others are compared with
 */

export const KEY = "blockwork_sweep";

/** The sweep in what a node put out, or null. @param {any} output @returns {Sweep | null} */
export function sweepOf(output) {
  const sweep = output?.[KEY]?.[0];
  return sweep?.cells?.length > 1 ? sweep : null;
}

/** The measures that every changed cell has. @param {Sweep} sweep @returns {("rms" | "cosine")[]} */
export function measures({ cells }) {
  return /** @type {("rms" | "cosine")[]} */ (["rms", "cosine"]).filter((name) => cells.slice(1).every((cell) => cell[name].length));
}

/** @param {number[]} values */
export function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}

/**
 * How far every cell moved: the figure, its share of the farthest, and its rank from 1; rank 0 for the unmodified.
 * @param {Cell[]} cells @param {"rms" | "cosine"} measure
 */
export function heat(cells, measure) {
  const moved = cells.map((cell) => mean(cell[measure]));
  const far = Math.max(...moved);
  const order = [...cells.keys()].filter((index) => cells[index].block).sort((a, b) => moved[b] - moved[a]);
  return cells.map((_, index) => ({
    moved: moved[index],
    share: far > 0 ? moved[index] / far : 0,
    rank: order.indexOf(index) + 1,
  }));
}

/** How far each block moved the images; of several ratios the farthest. @param {Sweep} sweep @returns {Record<string, number>} */
export function heatByBlock({ cells }) {
  /** @type {Record<string, number>} */
  const found = {};
  for (const { block, rms } of cells) if (block) found[block] = Math.max(found[block] ?? 0, mean(rms));
  return found;
}

/** Three figures, as people read them: 12.3, 0.0123. @param {number} value */
export function figure(value) {
  return String(Number(value.toPrecision(3)));
}

/**
 * The cell a key leads to: left and right in the order of the sweep, up and down in the same arm, Home and End.
 * @param {Cell[]} cells @param {number} from @param {string} key @returns {number} `from` where there is none
 */
export function next(cells, from, key) {
  const [column, row] = cells[from].place;
  const arm = [...cells.keys()].filter((index) => cells[index].place[0] === column);
  const nearest = (/** @type {number[]} */ found) => found[0] ?? from;
  switch (key) {
    case "ArrowRight": return Math.min(from + 1, cells.length - 1);
    case "ArrowLeft": return Math.max(from - 1, 0);
    case "Home": return 0;
    case "End": return cells.length - 1;
    case "ArrowDown": return nearest(arm.filter((index) => cells[index].place[1] > row).sort((a, b) => cells[a].place[1] - cells[b].place[1]));
    case "ArrowUp": return nearest(arm.filter((index) => cells[index].place[1] < row).sort((a, b) => cells[b].place[1] - cells[a].place[1]));
    default: return from;
  }
}

/** Cells that share a place (several ratios of a block), in the order of the sweep. @param {Cell[]} cells */
export function places(cells) {
  /** @type {Map<string, number[]>} */
  const found = new Map();
  for (const [index, { place }] of cells.entries()) {
    const key = place.join();
    found.set(key, [...(found.get(key) ?? []), index]);
  }
  return [...found.values()];
}

/** Where the server shows a file. @param {File} file */
export function address({ filename, subfolder, type }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}
