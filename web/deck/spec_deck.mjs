// @ts-check
/** The block-spec deck: click blocks of the U to choose where a prompt goes, drag for its weight there. */

import { bar, paintBar, rowAttributes } from "./bars.mjs";
import { LAYOUTS, PROMPTED } from "./blocks.mjs";
import { copy, shortcuts } from "./clipboard.mjs";
import { button, el } from "./dom.mjs";
import { attach } from "./gestures.mjs";
import { rove } from "./rove.mjs";
import { range } from "./shaping.mjs";
import { chosen, read, resolution, write } from "./spec.mjs";
import { prompted } from "./spec_text.mjs";
import { numberText } from "./weights.mjs";

const GROUPS = ["all", "down", "mid", "up", "coarse", "fine"];

export class SpecDeck {
  minHeight = 436;

  /** @param {import("./weights_deck.mjs").Host} host */
  constructor(host) {
    this.host = host;
    this.text = "";
    this.spec = read("");
    this.built = "";
    /** @type {string | null} the text before the running gesture */
    this.held = null;
    /** @type {import("./weights_deck.mjs").Link | null} */
    this.link = null;
    this.u = el("div", { class: "bw-u", role: "group" });
    this.banner = el("div", { class: "bw-banner", role: "status" });
    this.u.setAttribute("aria-label", host.words("specLabel"));
    this.element = el("div", { class: "bw-deck bw-spec", role: "group", "aria-label": host.words("specLabel"), title: "" }, [this.toolbar(), this.u, this.footer(), this.banner]);
    this.refresh = [rove(this.tools, "button"), rove(this.u, ".bw-bar", false)];
    attach(this.element, {
      get: (bar) => this.spec.chosen.get(bar.dataset.key ?? "")?.weight ?? 0,
      set: (bar, value, final) => this.choose([bar.dataset.key ?? ""], value, final),
      cancel: () => this.held !== null && this.write(this.held),
      scale: () => this.scale(),
      solo: (bar) => this.only([bar.dataset.key ?? ""]),
      reset: () => 1,
      tap: (bar) => this.toggle(bar.dataset.key ?? ""),
      forward: host.forward,
    });
    shortcuts(this.element, () => this.text, (text) => this.write(text), (what) => this.say(host.words(what)));
  }

  get layout() {
    return this.spec.layout;
  }

  /** @param {string} text @param {import("./weights_deck.mjs").Link | null} [link] */
  show(text, link = null) {
    this.link = link;
    this.text = link ? (link.text ?? "") : text;
    const layout = this.host.layout();
    this.spec = read(this.text, prompted(layout).length ? layout : "sd1");
    this.paint();
  }

  scale() {
    return range([...this.spec.chosen.values()].map(({ weight }) => weight));
  }

  /** Every change leaves the deck here. @param {string} text @param {boolean} [final] whether the gesture ends here */
  write(text, final = true) {
    this.held ??= this.text;
    this.host.write(text, final);
    if (final) this.held = null;
  }

  /** @param {string[]} blocks @param {number | null} weight null: taken out @param {boolean} [final] */
  choose(blocks, weight, final = true) {
    this.write(chosen(this.text, this.layout, blocks, weight), final);
  }

  /** @param {string} block */
  toggle(block) {
    this.choose([block], this.spec.chosen.has(block) ? null : 1);
  }

  /** The text becomes these blocks alone. @param {string[]} blocks */
  only(blocks) {
    const kept = blocks.map((block) => /** @type {const} */ ([block, this.spec.chosen.get(block) ?? { weight: 1, suffix: "" }]));
    this.write(write({ layout: this.layout, chosen: new Map(kept.map(([block, { weight }]) => [block, { weight, suffix: "" }])) }));
  }

  /** Another model's blocks are drawn; the text stays as it is. @param {string} layout */
  relayout(layout) {
    this.host.layout(layout);
    this.show(this.text, this.link);
  }

  toolbar() {
    const { words } = this.host;
    const choose = GROUPS.map((name) => {
      const pick = button(name, name, () => this.write(name), "bw-button");
      pick.dataset.group = name;
      return pick;
    });
    this.layoutButtons = Object.keys(PROMPTED).map((id) => {
      const pick = button(LAYOUTS[id].title, words("layoutHelp"), () => this.relayout(id), "bw-segment");
      pick.dataset.layout = id;
      return pick;
    });
    const layouts = el("span", { class: "bw-segments", role: "group", "aria-label": words("layoutHelp") }, this.layoutButtons);
    const undo = button(words("undo"), words("undoHelp"), () => this.host.undo());
    const clear = button(words("clear"), words("clear"), () => this.only([]));
    this.tools = el("div", { class: "bw-toolbar", role: "toolbar", "aria-label": words("specLabel") }, [el("div", { class: "bw-tools bw-groups" }, choose), layouts, el("div", { class: "bw-tools" }, [clear, undo])]);
    return this.tools;
  }

  /** A short message, in place of the note. @param {string} text */
  say(text) {
    this.message.textContent = text;
  }

  footer() {
    const { words } = this.host;
    this.field = el("input", { type: "text", class: "bw-text", spellcheck: "false", "aria-label": words("specLabel") });
    this.field.addEventListener("change", () => this.write(this.field.value.trim()));
    this.field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") this.field.blur();
    });
    const copying = button(words("copy"), words("copyHelp"), async () => {
      this.say(words((await copy(this.text, this.element)) ? "copied" : "copyRefused"));
    });
    this.message = el("div", { class: "bw-note", role: "status" });
    return el("div", { class: "bw-footer" }, [this.field, copying, this.message]);
  }

  build() {
    const layout = LAYOUTS[this.layout];
    const { words } = this.host;
    this.built = this.layout;
    this.u.replaceChildren(
      ...layout.blocks.map((block) => {
        const takes = prompted(this.layout).includes(block);
        const row = rowAttributes(this.layout, block);
        const title = takes ? `${block} \u00b7 ${resolution(this.layout, block)} \u00b7 ${words("prompted")}` : words("without");
        const name = button(block, title, () => this.toggle(block), "bw-name");
        name.disabled = !takes;
        name.tabIndex = -1;
        return el("div", { ...row, class: `${row.class}${takes ? "" : " bw-without"}`, title }, [
          name,
          takes ? this.slot(block, title) : el("span", { class: "bw-slots bw-closed" }),
        ]);
      }),
    );
    /** @type {HTMLElement[]} */
    this.bars = [...this.u.querySelectorAll(".bw-bar")];
    for (const refresh of this.refresh ?? []) refresh();
  }

  /** @param {string} block @param {string} title */
  slot(block, title) {
    return el("span", { class: "bw-slots" }, [bar(block, 0, `${block} ${this.host.words("weight")}`, title)]);
  }

  paint() {
    if (this.built !== this.layout) this.build();
    const scale = this.scale();
    for (const bar of this.bars ?? []) {
      const choice = this.spec.chosen.get(bar.dataset.key ?? "");
      const text = choice ? numberText(choice.weight) + choice.suffix : "";
      paintBar(bar, choice?.weight ?? 0, scale, text, text || this.host.words("off"));
      const row = bar.closest(".bw-row");
      row?.classList.toggle("bw-chosen", Boolean(choice));
      row?.querySelector(".bw-name")?.setAttribute("aria-pressed", String(Boolean(choice)));
    }
    for (const pick of this.layoutButtons) {
      pick.setAttribute("aria-pressed", String(pick.dataset.layout === this.layout));
    }
    if (document.activeElement !== this.field || this.field.value.trim() !== this.text) this.field.value = this.text;
    const { error } = this.spec;
    this.banner.textContent = this.link ? this.host.words(this.link.text === null ? "linkedUnknown" : this.link.ran ? "linkedRan" : "linked").replace("{}", this.link.from) : "";
    this.element.classList.toggle("bw-unknown", this.link?.text === null);
    this.message.textContent = error ? `${this.host.words("others")}: ${error}` : "";
  }
}
