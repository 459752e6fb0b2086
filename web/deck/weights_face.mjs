// @ts-check
/** How the block deck looks: presets and tools above, the bars in the shape of the U, the text below. */

import { LAYOUTS, place } from "./blocks.mjs";
import { button, curve, el } from "./dom.mjs";
import { mirror, points } from "./shaping.mjs";
import { Sheet } from "./sheet.mjs";
import { numberText } from "./weights.mjs";

const APART = ["BASE", "VAE"];
const THUMB = { width: 60, height: 16 };

export class WeightsFace {
  /** @param {import("./weights_deck.mjs").WeightsDeck} deck */
  constructor(deck) {
    this.deck = deck;
    this.built = "";
    this.u = el("div", { class: "bw-u", role: "group" });
    this.apart = el("div", { class: "bw-apart" });
    this.sheet = new Sheet(deck);
    this.element = el("div", { class: `bw-deck${deck.count > 1 ? " bw-pair" : ""}`, title: "" }, [
      this.toolbar(),
      this.u,
      this.apart,
      this.footer(),
      this.sheet.element,
    ]);
  }

  toolbar() {
    const { words } = this.deck.host;
    this.presetLabel = el("span", { class: "bw-preset-name" });
    this.thumb = el("span", { class: "bw-thumb" });
    const picker = button("", words("presetsHelp"), () => this.sheet.toggle(), "bw-picker");
    picker.setAttribute("aria-haspopup", "dialog");
    picker.append(this.thumb, this.presetLabel, el("span", { class: "bw-caret", "aria-hidden": "true", text: "\u25be" }));
    this.layoutButtons = Object.values(LAYOUTS).map(({ id, title }) => {
      const choose = button(title, words("layoutHelp"), () => this.deck.relayout(id), "bw-segment");
      choose.dataset.layout = id;
      return choose;
    });
    const layouts = el("span", { class: "bw-segments", role: "group", "aria-label": words("layoutHelp") }, this.layoutButtons);
    const shaping = el("div", { class: "bw-tools" }, [
      button(words("mirror"), words("mirrorHelp"), () => this.deck.reshape((values) => mirror(values))),
      button(words("invert"), words("invertHelp"), () => this.deck.invert()),
      button(words("reset"), words("resetHelp"), () => this.deck.reshape((values, track) => values.map(() => this.deck.rest(track)))),
      button(words("undo"), words("undoHelp"), () => this.deck.host.undo()),
    ]);
    return el("div", { class: "bw-toolbar" }, [picker, layouts, shaping]);
  }

  footer() {
    const { words } = this.deck.host;
    this.field = el("input", { type: "text", class: "bw-text", spellcheck: "false", "aria-label": words("textLabel") });
    this.field.addEventListener("change", () => this.deck.host.write(this.field.value.trim(), true));
    this.field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") this.field.blur();
    });
    const copy = button(words("copy"), words("copyHelp"), () => void navigator.clipboard.writeText(this.deck.text));
    const paste = button(words("paste"), words("pasteHelp"), async () => {
      this.deck.host.write((await navigator.clipboard.readText()).trim(), true);
    });
    this.message = el("div", { class: "bw-error", role: "alert" });
    return el("div", { class: "bw-footer" }, [this.field, copy, paste, this.message]);
  }

  build() {
    const layout = LAYOUTS[this.deck.layout];
    this.built = this.deck.layout;
    this.u.replaceChildren(
      ...layout.blocks.map((block) => {
        const { side, row, level } = place(layout, block);
        const style = `grid-row:${row + 1};--level:${level};--hue:${205 + (115 * layout.blocks.indexOf(block)) / layout.blocks.length}`;
        const name = button(block, this.deck.host.words("solo"), () => this.deck.solo(block), "bw-name");
        name.tabIndex = -1;
        return el("div", { class: `bw-row bw-${side}`, style }, [name, this.slot(block)]);
      }),
    );
    this.apart.replaceChildren(
      ...APART.map((key) => {
        const name = button(key, this.deck.host.words("baseHelp"), () => this.deck.toggleApart(key), "bw-name");
        return el("div", { class: "bw-row bw-in", style: "--level:0;--hue:160" }, [name, this.slot(key)]);
      }),
    );
    /** @type {HTMLInputElement[]} */
    this.bars = [...this.element.querySelectorAll(".bw-bar")];
  }

  /** The bars of one block, one per track. @param {string} key */
  slot(key) {
    const { words } = this.deck.host;
    const bars = this.deck.tracks.map((_, track) => {
      const meaning = this.deck.count === 1 ? words("share") : words(track ? "shareB" : "shareA");
      const bar = el("input", {
        type: "range", step: "any", class: "bw-bar", "data-capture-wheel": "true", title: words("barHelp"),
        "aria-label": `${key} ${meaning}`, "data-key": key, "data-track": track,
      });
      return el("span", { class: `bw-slot bw-track${track}` }, [bar, el("span", { class: "bw-value", "aria-hidden": "true" })]);
    });
    return el("span", { class: "bw-slots" }, bars);
  }

  paint() {
    if (this.built !== this.deck.layout) this.build();
    const { low, high } = this.deck.scale();
    const at = (/** @type {number} */ value) => (100 * (value - low)) / (high - low);
    for (const bar of this.bars ?? []) {
      const value = this.deck.get(bar);
      const state = `${value} ${low} ${high}`;
      if (bar.dataset.state === state) continue;
      bar.dataset.state = state;
      bar.disabled = value === undefined;
      const shown = value ?? 0;
      bar.min = String(low);
      bar.max = String(high);
      bar.value = String(shown);
      bar.setAttribute("aria-valuetext", numberText(shown));
      bar.style.setProperty("--from", `${at(Math.min(0, shown))}%`);
      bar.style.setProperty("--to", `${at(Math.max(0, shown))}%`);
      bar.style.setProperty("--one", low < 0 || high > 1 ? `${at(1)}%` : "-9%");
      bar.style.setProperty("--zero", low < 0 ? `${at(0)}%` : "-9%");
      bar.classList.toggle("bw-beyond", shown < 0 || shown > 1);
      /** @type {any} */ (bar.nextSibling).textContent = value === undefined ? "\u2013" : brief(value);
    }
    for (const choose of this.layoutButtons) {
      choose.setAttribute("aria-pressed", String(choose.dataset.layout === this.deck.layout));
    }
    const shares = this.deck.tracks[this.deck.count - 1].values;
    this.presetLabel.textContent = this.deck.presetName() || this.deck.host.words("custom");
    this.thumb.replaceChildren(curve(points(shares, THUMB.width, THUMB.height), THUMB.width, THUMB.height));
    if (document.activeElement !== this.field || this.field.value.trim() !== this.deck.text) this.field.value = this.deck.text;
    this.message.textContent = this.deck.error;
    this.element.classList.toggle("bw-unread", Boolean(this.deck.error));
    const soloed = this.deck.soloed?.text === this.deck.text ? this.deck.soloed.index : -1;
    [...this.u.children].forEach((row, index) => row.classList.toggle("bw-solo", index === soloed));
  }
}

/** Three places at most, as on a small display. @param {number} value */
function brief(value) {
  return String(Math.round(value * 1000) / 1000 + 0);
}
