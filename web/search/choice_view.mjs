// @ts-check
/** A generation of candidates on its node: a click prefers one, others are rejected, enlarged, or put on a deck. */

import { button, el } from "../deck/dom.mjs";
import { Lightbox } from "../sweep/lightbox.mjs";
import { address } from "../sweep/sweep.mjs";
import { asSweep, marksOf, textOf, toggled } from "./choice.mjs";

const HEAD = 34;
const ROW = 120;
const NAMES = { unmodified: "bestSoFar", sweepLabel: "choiceLabel", slideHelp: "choiceSlide" }; // of the sweep's lightbox

/**
 * @typedef {import("../sweep/view.mjs").Host & {ranking: () => string, rank: (text: string) => void, use: (weights: string) => void}} Host
 */

export class ChoiceView {
  minHeight = HEAD + ROW;

  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    const { words } = host;
    this.lightbox = new Lightbox({ ...host, words: (key) => words(/** @type {Record<string, string>} */ (NAMES)[key] ?? key) });
    this.head = el("div", { class: "bw-sweep-head", text: words("choiceHelp") });
    this.grid = el("div", { class: "bw-sweep-u", role: "group", "aria-label": words("choiceLabel") });
    this.element = el("div", { class: "bw-sweep bw-choice" }, [this.head, this.grid]);
    this.element.addEventListener("wheel", host.forward, { passive: false });
  }

  /** @param {import("./choice.mjs").Choice} choice */
  show(choice) {
    this.choice = choice;
    const columns = Math.ceil(Math.sqrt(choice.cells.length));
    const rows = Math.ceil(choice.cells.length / columns);
    this.sweep = asSweep(choice, (number) => this.name(number), columns);
    this.minHeight = HEAD + rows * ROW;
    this.element.style.setProperty("--rows", String(rows));
    this.element.style.setProperty("--columns", String(columns));
    this.element.style.minHeight = `${this.minHeight}px`;
    this.paint();
  }

  /** @param {number} number */
  name(number) {
    return this.host.words("trial").replace("{}", String(number));
  }

  /** Also when the text of the ranking has changed. */
  paint() {
    const { choice } = this;
    if (!choice) return;
    const marks = marksOf(this.host.ranking(), choice.generation);
    const focus = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.key;
    this.grid.replaceChildren(...choice.cells.map((cell, index) => this.tile(cell, index, marks)));
    if (focus) this.grid.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  /** @param {import("./choice.mjs").Candidate} cell @param {number} index @param {import("./choice.mjs").Marks} marks */
  tile(cell, index, marks) {
    const { host } = this;
    const { words } = host;
    const rank = marks.preferred.indexOf(cell.number) + 1;
    const rejected = marks.rejected.includes(cell.number);
    const name = cell.best ? `${words("bestSoFar")} (${cell.number})` : this.name(cell.number);
    const mark = (/** @type {"preferred" | "rejected"} */ how) => () => {
      if (!this.choice) return;
      const { generation } = this.choice;
      host.rank(textOf(generation, toggled(marksOf(host.ranking(), generation), cell.number, how)));
      this.paint();
    };
    const tool = (/** @type {string} */ sign, /** @type {string} */ key, /** @type {() => void} */ pressed) => {
      const made = button(sign, `${words(key)}: ${name}`, pressed, `bw-choice-${key}`);
      made.setAttribute("aria-label", made.title);
      made.dataset.key = `${key} ${cell.number}`;
      return made;
    };
    const image = tool("", "prefer", mark("preferred"));
    image.setAttribute("aria-pressed", String(rank > 0));
    image.append(el("img", { src: host.url(address(cell.file)), alt: "", decoding: "async", draggable: "false" }));
    if (rank) image.append(el("span", { class: "bw-choice-rank", text: rank }));
    const reject = cell.best ? [] : [tool("\u00d7", "reject", mark("rejected"))];
    for (const made of reject) made.setAttribute("aria-pressed", String(rejected));
    const line = el("div", { class: "bw-choice-line" }, [
      el("span", { class: "bw-cell-name", text: name, title: cell.weights }),
      ...reject,
      tool("\u2922", "enlarge", () => this.sweep && this.lightbox.open(this.sweep, index, "rms")),
      tool("\u2191", "useThese", () => host.use(cell.weights)),
    ]);
    const tile = el("div", { class: `bw-cell${rejected ? " bw-rejected" : ""}${cell.best ? " bw-best" : ""}` }, [line, image]);
    tile.dataset.number = String(cell.number);
    return tile;
  }
}
