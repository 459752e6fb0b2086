// @ts-check
/** The panel over the deck: find a preset, blend two, scale and shift, keep one's own. */

import { button, curve, el } from "./dom.mjs";
import { PRESETS } from "./presets.mjs";
import { blend, points, scale } from "./shaping.mjs";
import { numberOf } from "./weights.mjs";

const CARD = { width: 88, height: 30 };

export class Sheet {
  /** @param {import("./weights_deck.mjs").WeightsDeck} deck */
  constructor(deck) {
    this.deck = deck;
    this.element = el("div", { class: "bw-sheet", role: "dialog", hidden: "", "data-capture-wheel": "true" });
    /** @type {string[]} */
    this.pair = ["", ""];
    this.slot = 0;
    this.blending = false;
    /** @type {number[]} */
    this.before = [];
    this.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
  }

  get words() {
    return this.deck.host.words;
  }

  toggle() {
    if (this.element.hidden) this.open();
    else this.close();
  }

  open() {
    this.build();
    this.element.hidden = false;
    this.element.setAttribute("aria-label", this.words("presets"));
    this.search.focus({ preventScroll: true });
  }

  close() {
    this.element.hidden = true;
    this.element.replaceChildren();
    this.deck.element.querySelector(".bw-picker")?.focus({ preventScroll: true });
  }

  /** All presets of the deck's layout, the user's own first. @returns {[string, number[], boolean][]} */
  presets() {
    const length = this.deck.tracks[0].values.length;
    const own = Object.entries(this.deck.host.own()).filter(([, values]) => values.length === length);
    const names = new Set(own.map(([name]) => name));
    const built = Object.entries(PRESETS[this.deck.layout]).filter(([name]) => !names.has(name));
    return [
      ...own.map(([name, values]) => /** @type {[string, number[], boolean]} */ ([name, values, true])),
      ...built.map(([name, values]) => /** @type {[string, number[], boolean]} */ ([name, values, false])),
    ];
  }

  build() {
    const { words } = this;
    this.before = this.deck.tracks[this.deck.count - 1].values;
    this.slot = 0;
    this.blending = false;
    this.search = el("input", { type: "search", class: "bw-search", placeholder: words("search"), "aria-label": words("search") });
    this.search.addEventListener("input", () => this.list());
    this.mode = button(words("blend"), words("presetsHelp"), () => this.setBlending(!this.blending));
    const head = el("div", { class: "bw-sheet-head" }, [
      this.search,
      this.mode,
      button("\u00d7", words("close"), () => this.close()),
    ]);
    this.cards = el("div", { class: "bw-cards", role: "listbox", "aria-label": words("presets"), "data-scrolls": "" });
    this.cards.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const card = /** @type {HTMLElement} */ (event.target).closest(".bw-card");
      if (card instanceof HTMLElement) this.choose(card.dataset.name ?? "");
    });
    this.foot = el("div", { class: "bw-sheet-foot" });
    this.element.replaceChildren(head, this.cards, this.foot);
    this.list();
    this.footing();
  }

  list() {
    const wanted = this.search.value.trim().toLowerCase();
    const shown = this.presets().filter(([name]) => name.toLowerCase().includes(wanted));
    this.cards.replaceChildren(...shown.map(([name, values, own]) => this.card(name, values, own)));
    if (!shown.length) this.cards.append(el("p", { class: "bw-none", text: this.words("none") }));
  }

  /** @param {string} name @param {number[]} values @param {boolean} own */
  card(name, values, own) {
    const card = button("", name, () => {}, "bw-card");
    card.dataset.name = name;
    card.setAttribute("role", "option");
    card.setAttribute("aria-selected", String(this.blending ? this.pair.includes(name) : name === this.deck.presetName()));
    card.append(curve(points(values, CARD.width, CARD.height), CARD.width, CARD.height), el("span", { text: name }));
    if (!own) return card;
    const remove = button("\u00d7", this.words("remove"), () => {
      const { [name]: _, ...rest } = this.deck.host.own();
      this.deck.host.keepOwn(rest);
      this.list();
    }, "bw-remove");
    return el("div", { class: "bw-own" }, [card, remove]);
  }

  /** @param {string} name */
  choose(name) {
    const values = this.valuesOf(name);
    if (!values) return;
    if (!this.blending) {
      this.deck.apply(values);
      this.close();
      return;
    }
    this.pair[this.slot] = name;
    this.slot = 1 - this.slot;
    this.list();
    this.footing();
    this.blendNow(true);
  }

  /** @param {string} name */
  valuesOf(name) {
    return this.presets().find(([known]) => known === name)?.[1];
  }

  /** @param {boolean} on */
  setBlending(on) {
    this.blending = on;
    this.pair = [this.deck.presetName() || "", ""];
    this.slot = this.pair[0] ? 1 : 0;
    this.mode.setAttribute("aria-pressed", String(on));
    this.list();
    this.footing();
  }

  /** @param {boolean} final */
  blendNow(final) {
    const [first, second] = this.pair.map((name) => this.valuesOf(name));
    if (first && second) this.deck.apply(blend(first, second, Number(this.amount.value)), final);
  }

  footing() {
    this.foot.replaceChildren(...(this.blending ? this.blendControls() : this.shapeControls()));
  }

  blendControls() {
    const share = this.amount?.value ?? "0.5";
    this.amount = el("input", { type: "range", min: 0, max: 1, step: 0.01, class: "bw-slider", "aria-label": this.words("blendLabel") });
    this.amount.value = share;
    const number = el("output", { class: "bw-number", text: share });
    this.amount.addEventListener("input", () => {
      number.textContent = this.amount.value;
      this.blendNow(false);
    });
    this.amount.addEventListener("change", () => this.blendNow(true));
    const chips = this.pair.map((name, slot) => {
      const chip = button(name || this.words(slot ? "second" : "first"), this.words("blend"), () => {
        this.slot = slot;
        this.footing();
      }, "bw-chip");
      chip.setAttribute("aria-pressed", String(slot === this.slot));
      return chip;
    });
    return [chips[0], this.amount, number, chips[1]];
  }

  shapeControls() {
    const { words } = this;
    const field = (/** @type {string} */ key, /** @type {string} */ start) => {
      const input = el("input", { type: "text", inputmode: "decimal", class: "bw-small", "aria-label": words(key) });
      input.value = start;
      input.addEventListener("change", reshape);
      return [el("label", { text: words(key) }), input];
    };
    const reshape = () => {
      const by = numberOf(factor[1].value);
      const plus = numberOf(offset[1].value);
      if (by !== null && plus !== null) this.deck.apply(scale(this.before, by, plus));
    };
    const factor = field("factor", "1");
    const offset = field("offset", "0");
    const name = el("input", { type: "text", class: "bw-keep", placeholder: words("keep"), "aria-label": words("keep") });
    const keep = button("+", words("keepHelp"), () => {
      const key = name.value.trim();
      if (!key) return;
      const values = this.deck.tracks[this.deck.count - 1].values;
      this.deck.host.keepOwn({ ...this.deck.host.own(), [key]: values });
      name.value = "";
      this.list();
      this.deck.face.paint();
    });
    name.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") keep.click();
    });
    return [...factor, ...offset, name, keep];
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Escape") {
      this.close();
    } else if (event.key === "Enter" && event.target === this.search) {
      this.cards.querySelector(".bw-card")?.click();
    } else if (event.key.startsWith("Arrow") && event.target !== this.amount) {
      const cards = [...this.cards.querySelectorAll(".bw-card")];
      const here = cards.indexOf(/** @type {Element} */ (event.target));
      if (here < 0 && event.key !== "ArrowDown") return;
      const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
      const next = here < 0 ? 0 : here + (steps[/** @type {keyof steps} */ (event.key)] ?? 0);
      cards[Math.max(0, Math.min(cards.length - 1, next))]?.focus();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
