// @ts-check
/** One cell of a sweep at full size beside the unmodified model, over the whole window. */

import { copy } from "../deck/clipboard.mjs";
import { button, el } from "../deck/dom.mjs";
import { address, figure, heat, next } from "./sweep.mjs";

export class Lightbox {
  /** @param {import("./view.mjs").Host} host */
  constructor(host) {
    this.host = host;
    this.index = 0;
    this.sliding = false;
    this.cut = 50; // percent of the width that shows the unmodified model
  }

  /** @param {import("./sweep.mjs").Sweep} sweep @param {number} index @param {"rms" | "cosine"} measure */
  open(sweep, index, measure) {
    const { words } = this.host;
    this.sweep = sweep;
    this.measure = measure;
    this.name = el("h2", { class: "bw-light-name" });
    this.moved = el("p", { class: "bw-light-moved", "aria-live": "polite" });
    this.pictures = el("div", { class: "bw-light-pictures" });
    this.slider = button(words("slide"), words("slideHelp"), () => {
      this.sliding = !this.sliding;
      this.show(this.index);
    });
    this.taker = button(words("take"), words("takeHelp"), async () => {
      const cell = this.sweep?.cells[this.index];
      const text = cell?.weights ?? cell?.label.replaceAll(" ", "") ?? "";
      this.taker.textContent = words((await copy(text, this.dialog)) ? "copied" : "copyRefused");
    });
    const head = el("div", { class: "bw-light-head" }, [
      this.name,
      this.moved,
      this.slider,
      this.taker,
      button("\u2039", words("previous"), () => this.go("ArrowLeft")),
      button("\u203a", words("next"), () => this.go("ArrowRight")),
      button("\u00d7", words("close"), () => this.dialog.close()),
    ]);
    this.dialog = el("dialog", { class: "bw-light", "aria-label": words("sweepLabel") }, [head, this.pictures]);
    this.dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      event.stopPropagation(); // the canvas has shortcuts of its own
      if (this.go(event.key)) event.preventDefault();
    });
    this.dialog.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.dialog.addEventListener("close", () => this.dialog.remove());
    document.body.append(this.dialog);
    this.show(index);
    this.dialog.showModal();
  }

  /** @param {string} key @returns {boolean} whether the key leads to another cell */
  go(key) {
    const found = this.sweep ? next(this.sweep.cells, this.index, key) : this.index;
    if (found === this.index) return false;
    this.show(found);
    return true;
  }

  /** @param {number} index */
  show(index) {
    const { sweep, host, measure } = this;
    if (!sweep || !measure) return;
    this.index = index;
    const cell = sweep.cells[index];
    const { moved, rank } = heat(sweep.cells, measure)[index];
    this.name.textContent = cell.block ? cell.label : host.words("unmodified");
    const far = `${host.words("moved")} ${figure(moved)} (${sweep.units[measure]}), ${rank} / ${sweep.cells.length - 1}`;
    this.moved.textContent = cell.about ?? (cell.block ? far : "");
    const shown = cell.block && !sweep.alone ? [sweep.cells[0], cell] : [cell];
    this.slider.setAttribute("aria-pressed", String(this.sliding));
    this.slider.disabled = shown.length < 2;
    this.taker.disabled = !cell.block && !cell.weights;
    this.taker.textContent = host.words("take");
    if (this.sliding && shown.length > 1) {
      this.pictures.replaceChildren(this.slide(shown));
      return;
    }
    this.pictures.replaceChildren(
      ...shown.map(({ file, label, block }) => {
        const name = block ? label : host.words("unmodified");
        return el("figure", {}, [el("img", { src: host.url(address(file)), alt: name }), el("figcaption", { text: name })]);
      }),
    );
  }

  /** Both images in one place, with a line that slides between them. @param {import("./sweep.mjs").Cell[]} cells unmodified, changed */
  slide(cells) {
    const { host } = this;
    const knob = el("input", { type: "range", min: 0, max: 100, step: 0.5, class: "bw-slide-knob", "aria-label": host.words("slideHelp") });
    knob.value = String(this.cut);
    const images = cells.map(({ file, label, block }) => el("img", { src: host.url(address(file)), alt: block ? label : host.words("unmodified") }));
    const frame = el("div", { class: "bw-slide", style: `--cut:${this.cut}%` }, [...images, knob]);
    knob.addEventListener("input", () => {
      this.cut = Number(knob.value);
      frame.style.setProperty("--cut", `${this.cut}%`);
    });
    knob.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") event.stopPropagation(); // keys move the line, and do not lead to other cells
    });
    return frame;
  }
}
