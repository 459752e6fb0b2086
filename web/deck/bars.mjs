// @ts-check
/**
 * The bars of the decks. A bar is one element with the role of a slider that draws its fill from custom
 * properties and its number from an attribute: 120 of them cost little.
 */

import { LAYOUTS, place } from "./blocks.mjs";
import { button, el } from "./dom.mjs";

const FIRST_HUE = 205;
const HUES = 115;

/** Attributes of a block's row in the grid. @param {string} layoutId @param {string} block */
export function rowAttributes(layoutId, block) {
  const layout = LAYOUTS[layoutId];
  const { side, column, row, level } = place(layout, block);
  const hue = FIRST_HUE + (HUES * layout.blocks.indexOf(block)) / layout.blocks.length;
  const where = side === "column" ? `grid-column:${column + 1};` : `--level:${level};`;
  return { class: `bw-row bw-${side}`, style: `grid-row:${row + 1};${where}--hue:${hue.toFixed(0)}` };
}

/** @param {string} key @param {number} track @param {string} label @param {string} title */
export function bar(key, track, label, title) {
  return el("div", {
    class: `bw-bar bw-track${track}`, role: "slider", tabindex: "-1", title, "aria-label": label,
    "aria-orientation": "horizontal", "data-key": key, "data-track": track, "data-capture-wheel": "true",
  });
}

/** A block's name; a press does something with the block. @param {string} block @param {string} title @param {() => void} pressed */
export function name(block, title, pressed) {
  const element = button(block, title, pressed, "bw-name");
  element.tabIndex = -1;
  return element;
}

/**
 * Draw a value; a bar without a value is disabled.
 * @param {HTMLElement} element @param {number | undefined} value @param {{low: number, high: number}} scale
 * @param {string} [text] the number shown @param {string} [spoken] what a screen reader says
 */
export function paintBar(element, value, { low, high }, text = value === undefined ? "\u2013" : brief(value), spoken = text) {
  const state = `${value} ${low} ${high} ${text} ${spoken}`;
  if (element.dataset.state === state) return;
  const at = (/** @type {number} */ number) => `${(100 * (number - low)) / (high - low)}%`;
  const shown = value ?? 0;
  Object.assign(element.dataset, { state, value: text });
  element.setAttribute("aria-valuemin", String(low));
  element.setAttribute("aria-valuemax", String(high));
  element.setAttribute("aria-valuenow", String(shown));
  element.setAttribute("aria-valuetext", spoken);
  if (value === undefined) element.setAttribute("aria-disabled", "true");
  else element.removeAttribute("aria-disabled");
  element.style.setProperty("--from", at(Math.min(0, shown)));
  element.style.setProperty("--to", at(Math.max(0, shown)));
  element.style.setProperty("--zero", low < 0 ? at(0) : "-9%");
  element.style.setProperty("--one", low < 0 || high > 1 ? at(1) : "-9%");
  element.classList.toggle("bw-wide", low < 0 || high > 1);
  element.classList.toggle("bw-beyond", shown < 0 || shown > 1);
}

/** Three places at most, as on a small display. @param {number} value */
export function brief(value) {
  return String(Math.round(value * 1000) / 1000 + 0);
}

/**
 * The order in which the up and down keys visit bars: column by column, from the top.
 * @param {HTMLElement[]} bars @param {string} layoutId
 */
export function visitOrder(bars, layoutId) {
  const layout = LAYOUTS[layoutId];
  const sides = { in: 0, column: 0, middle: 1, out: 2 };
  const rank = (/** @type {HTMLElement} */ element) => {
    const key = element.dataset.key ?? "";
    const track = Number(element.dataset.track ?? 0);
    if (!layout.blocks.includes(key)) return [9, layout.apart.indexOf(key), track];
    const { side, column, row } = place(layout, key);
    return [sides[side] + (side === "column" ? column / 100 : 0), row, track];
  };
  return [...bars].sort((a, b) => {
    const [left, right] = [rank(a), rank(b)];
    return left[0] - right[0] || left[1] - right[1] || left[2] - right[2];
  });
}
