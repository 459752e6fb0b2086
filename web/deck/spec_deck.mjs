// @ts-check
/** The block-spec deck: click blocks of the U to choose where a prompt goes, drag for its weight there. */

import { LAYOUTS, PROMPTED, place } from "./blocks.mjs";
import { button, el } from "./dom.mjs";
import { attach } from "./gestures.mjs";
import { range } from "./shaping.mjs";
import { groups, read, resolution, write } from "./spec.mjs";
import { numberText } from "./weights.mjs";

const GROUPS = ["all", "down", "mid", "up", "coarse", "fine"];

export class SpecDeck {
  minHeight = 396;

  /** @param {import("./weights_deck.mjs").Host} host */
  constructor(host) {
    this.host = host;
    this.text = "";
    this.spec = read("");
    this.built = "";
    this.u = el("div", { class: "bw-u", role: "group" });
    this.element = el("div", { class: "bw-deck bw-spec", title: "" }, [this.toolbar(), this.u, this.footer()]);
    attach(this.element, {
      get: (bar) => this.spec.chosen.get(bar.dataset.key ?? "")?.weight ?? 0,
      set: (bar, value, final) => this.choose([bar.dataset.key ?? ""], value, final),
      scale: () => this.scale(),
      solo: (bar) => this.only([bar.dataset.key ?? ""]),
      reset: () => 1,
      tap: (bar) => this.toggle(bar.dataset.key ?? ""),
      forward: host.forward,
    });
  }

  get layout() {
    return this.spec.layout;
  }

  /** @param {string} text */
  show(text) {
    this.text = text;
    this.spec = read(text, this.host.layout());
    this.paint();
  }

  scale() {
    return range([...this.spec.chosen.values()].map(({ weight }) => weight));
  }

  /** @param {(chosen: Map<string, import("./spec.mjs").Choice>) => void} how @param {boolean} [final] */
  change(how, final = true) {
    const chosen = new Map(this.spec.chosen);
    how(chosen);
    this.host.write(write({ ...this.spec, chosen }), final);
  }

  /** @param {string[]} blocks @param {number} weight @param {boolean} [final] */
  choose(blocks, weight, final = true) {
    this.change((chosen) => {
      for (const block of blocks) chosen.set(block, { weight, suffix: chosen.get(block)?.suffix ?? "" });
    }, final);
  }

  /** @param {string} block */
  toggle(block) {
    this.change((chosen) => {
      if (!chosen.delete(block)) chosen.set(block, { weight: 1, suffix: "" });
    });
  }

  /** @param {string[]} blocks */
  only(blocks) {
    this.change((chosen) => {
      for (const block of [...chosen.keys()]) if (!blocks.includes(block)) chosen.delete(block);
      for (const block of blocks) if (!chosen.has(block)) chosen.set(block, { weight: 1, suffix: "" });
    });
  }

  /** @param {string} layout */
  relayout(layout) {
    this.host.layout(layout);
    const kept = new Map([...this.spec.chosen].filter(([block]) => PROMPTED[layout].includes(block)));
    this.host.write(write({ ...this.spec, layout, chosen: kept }), true);
  }

  toolbar() {
    const { words } = this.host;
    const choose = GROUPS.map((name) => {
      const pick = button(name, name, () => this.only(groups(this.layout)[name]), "bw-button");
      pick.dataset.group = name;
      return pick;
    });
    this.layoutButtons = Object.values(LAYOUTS).map(({ id, title }) => {
      const pick = button(title, words("layoutHelp"), () => this.relayout(id), "bw-segment");
      pick.dataset.layout = id;
      return pick;
    });
    const layouts = el("span", { class: "bw-segments", role: "group", "aria-label": words("layoutHelp") }, this.layoutButtons);
    const undo = button(words("undo"), words("undoHelp"), () => this.host.undo());
    const clear = button(words("clear"), words("clear"), () => this.only([]));
    return el("div", { class: "bw-toolbar" }, [el("div", { class: "bw-tools bw-groups" }, choose), layouts, el("div", { class: "bw-tools" }, [clear, undo])]);
  }

  footer() {
    const { words } = this.host;
    this.field = el("input", { type: "text", class: "bw-text", spellcheck: "false", "aria-label": words("specLabel") });
    this.field.addEventListener("change", () => this.host.write(this.field.value.trim(), true));
    this.field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") this.field.blur();
    });
    const copy = button(words("copy"), words("copyHelp"), () => void navigator.clipboard.writeText(this.text));
    this.message = el("div", { class: "bw-note" });
    return el("div", { class: "bw-footer" }, [this.field, copy, this.message]);
  }

  build() {
    const layout = LAYOUTS[this.layout];
    const { words } = this.host;
    this.built = this.layout;
    this.u.replaceChildren(
      ...layout.blocks.map((block, index) => {
        const { side, row, level } = place(layout, block);
        const prompted = PROMPTED[this.layout].includes(block);
        const style = `grid-row:${row + 1};--level:${level};--hue:${205 + (115 * index) / layout.blocks.length}`;
        const title = prompted ? `${block} \u00b7 ${resolution(this.layout, block)} \u00b7 ${words("prompted")}` : words("without");
        const name = button(block, title, () => this.toggle(block), "bw-name");
        name.disabled = !prompted;
        return el("div", { class: `bw-row bw-${side}${prompted ? "" : " bw-without"}`, style, title }, [
          name,
          prompted ? this.slot(block, title) : el("span", { class: "bw-slots bw-closed" }),
        ]);
      }),
    );
    /** @type {HTMLInputElement[]} */
    this.bars = [...this.u.querySelectorAll(".bw-bar")];
  }

  /** @param {string} block @param {string} title */
  slot(block, title) {
    const label = `${block} ${this.host.words("weight")}`;
    const bar = el("input", { type: "range", step: "any", class: "bw-bar", "data-capture-wheel": "true", title, "aria-label": label, "data-key": block });
    return el("span", { class: "bw-slots" }, [
      el("span", { class: "bw-slot bw-track0" }, [bar, el("span", { class: "bw-value", "aria-hidden": "true" })]),
    ]);
  }

  paint() {
    if (this.built !== this.layout) this.build();
    const { low, high } = this.scale();
    const at = (/** @type {number} */ value) => `${(100 * (value - low)) / (high - low)}%`;
    for (const bar of this.bars ?? []) {
      const choice = this.spec.chosen.get(bar.dataset.key ?? "");
      const weight = choice?.weight ?? 0;
      bar.min = String(low);
      bar.max = String(high);
      bar.value = String(weight);
      bar.setAttribute("aria-valuetext", choice ? numberText(weight) + choice.suffix : "off");
      bar.style.setProperty("--from", at(Math.min(0, weight)));
      bar.style.setProperty("--to", at(Math.max(0, weight)));
      /** @type {any} */ (bar.nextSibling).textContent = choice ? numberText(weight) + choice.suffix : "";
      const row = bar.closest(".bw-row");
      row?.classList.toggle("bw-chosen", Boolean(choice));
      row?.querySelector(".bw-name")?.setAttribute("aria-pressed", String(Boolean(choice)));
    }
    for (const pick of this.layoutButtons) {
      pick.setAttribute("aria-pressed", String(pick.dataset.layout === this.layout));
    }
    if (document.activeElement !== this.field || this.field.value.trim() !== this.text) this.field.value = this.text;
    const { others } = this.spec;
    this.message.textContent = others.length ? `${this.host.words("others")}: ${others.join(", ")}` : "";
  }
}
