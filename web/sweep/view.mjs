// @ts-check
/** The sweep on its node: the pictures in the shape of the U under a heat of how far each moved; a click enlarges. */

import { button, el } from "../deck/dom.mjs";
import { Lightbox } from "./lightbox.mjs";
import { address, figure, heat, measures, places } from "./sweep.mjs";

const HEAD = 34;
const ROW = 56;

/**
 * @typedef {object} Host
 * @property {(path: string) => string} url address of a path of the server
 * @property {(key: string) => string} words
 * @property {(event: WheelEvent) => void} forward gives a wheel turn to the canvas
 */

export class SweepView {
  minHeight = HEAD + ROW;

  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.lightbox = new Lightbox(host);
    this.hot = true;
    /** @type {"rms" | "cosine"} */
    this.measure = "rms";
    this.head = el("div", { class: "bw-sweep-head" });
    this.u = el("div", { class: "bw-sweep-u", role: "group", "aria-label": host.words("sweepLabel") });
    this.element = el("div", { class: "bw-sweep" }, [this.head, this.u]);
    this.element.addEventListener("wheel", host.forward, { passive: false });
  }

  /** @param {import("./sweep.mjs").Sweep} sweep */
  show(sweep) {
    this.sweep = sweep;
    if (!measures(sweep).includes(this.measure)) this.measure = "rms";
    const rows = 1 + Math.max(...sweep.cells.map(({ place }) => place[1]));
    this.minHeight = HEAD + rows * ROW;
    this.element.style.setProperty("--rows", String(rows));
    this.element.style.minHeight = `${this.minHeight}px`;
    this.paint();
  }

  paint() {
    const { sweep } = this;
    if (!sweep) return;
    const found = heat(sweep.cells, this.measure);
    this.head.replaceChildren(...this.tools(found));
    this.u.replaceChildren(
      ...places(sweep.cells).map((indices) => {
        const [column, row] = sweep.cells[indices[0]].place;
        const style = `grid-column:${column + 1};grid-row:${row + 1}`;
        const tiles = indices.map((index) => this.tile(index, found[index], indices.length > 1));
        return el("div", { class: "bw-sweep-place", style }, tiles);
      }),
    );
    this.element.classList.toggle("bw-hot", this.hot);
  }

  /** @param {ReturnType<typeof heat>} found */
  tools(found) {
    const { words } = this.host;
    const toggle = button(words("heat"), words("heatHelp"), () => {
      this.hot = !this.hot;
      this.paint();
    });
    toggle.setAttribute("aria-pressed", String(this.hot));
    const kinds = measures(/** @type {any} */ (this.sweep));
    const choices = kinds.length < 2 ? [] : kinds.map((kind) => {
      const choose = button(words(kind), words(`${kind}Help`), () => {
        this.measure = kind;
        this.paint();
      });
      choose.setAttribute("aria-pressed", String(kind === this.measure));
      return choose;
    });
    const far = Math.max(...found.map(({ moved }) => moved));
    const unit = this.sweep?.units[this.measure] ?? "";
    const scale = el("span", { class: "bw-sweep-scale", title: unit }, ["0", el("i", { "aria-hidden": "true" }), `${figure(far)} ${unit}`]);
    return [toggle, ...choices, scale];
  }

  /** @param {number} index @param {{moved: number, share: number}} warmth @param {boolean} several ratios of the block */
  tile(index, { moved, share }, several) {
    const { sweep, host } = this;
    if (!sweep) throw new Error("no sweep to show");
    const cell = sweep.cells[index];
    const text = cell.block ? `${cell.label}, ${host.words("moved")} ${figure(moved)}` : host.words("unmodified");
    const tile = button("", text, () => this.lightbox.open(sweep, index, this.measure), "bw-cell");
    tile.setAttribute("aria-label", text);
    tile.dataset.label = cell.label;
    tile.style.setProperty("--heat", String(share));
    tile.append(
      el("span", { class: "bw-cell-text" }, [
        el("span", { class: "bw-cell-name", text: (several ? cell.label : cell.block) ?? host.words("unmodified") }),
        el("span", { class: "bw-cell-moved", text: cell.block ? figure(moved) : "" }),
      ]),
      el("img", { src: host.url(address(cell.file)), alt: "", decoding: "async", draggable: "false" }),
    );
    return tile;
  }
}
