// @ts-check
/** A report as text: monospaced, scrolling, with a button that copies it. */

import { copy } from "../deck/clipboard.mjs";
import { button, el } from "../deck/dom.mjs";

const LINE = 15;
const MOST_LINES = 14;
const FRAME = 20;

export class ReportView {
  minHeight = 3 * LINE + FRAME;

  /** @param {(key: string) => string} words @param {(event: WheelEvent) => void} forward gives a wheel turn to the canvas */
  constructor(words, forward) {
    this.text = el("pre", { class: "bw-report-text", tabindex: "0", role: "region", "aria-label": words("report"), "data-capture-wheel": "true" });
    this.button = button(words("copy"), words("copyReport"), async () => {
      this.button.textContent = words((await copy(this.text.textContent ?? "", this.element)) ? "copied" : "copyRefused");
    }, "bw-report-copy");
    this.label = words("copy");
    this.element = el("div", { class: "bw-report" }, [this.text, this.button]);
    this.element.addEventListener(
      "wheel",
      (/** @type {WheelEvent} */ event) => {
        const scrolls = this.text.scrollHeight > this.text.clientHeight && this.text.contains(document.activeElement);
        if (!scrolls || event.ctrlKey) forward(event);
      },
      { passive: false },
    );
  }

  /** @param {string} text */
  show(text) {
    this.text.textContent = text;
    this.button.textContent = this.label;
    this.minHeight = Math.min(MOST_LINES, text.split("\n").length + 1) * LINE + FRAME;
    this.element.style.minHeight = `${this.minHeight}px`;
  }
}
