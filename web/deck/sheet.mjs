// @ts-check
/**
 * The panel of the deck: find a preset, blend two, keep one's own; change groups, scale, roll dice. Finding covers
 * the bars; blending and shaping are strips above them, so that the bars show what happens.
 */

import { LAYOUTS, groupsOf } from "./blocks.mjs";
import { button, curve, el } from "./dom.mjs";
import { loraPresets } from "./lora_weights.mjs";
import { presetTitle } from "./meaning.mjs";
import { blend, dice, points, scale } from "./shaping.mjs";
import { builtIn, numberOf } from "./weights.mjs";

const CARD = { width: 88, height: 30 };
const TRIES = 8;

/**
 * @typedef {"presets" | "blend" | "shape"} Mode
 * @typedef {{name: string, values: number[], about: string, own: boolean, editable: boolean, text?: string}} Card `text` is written in place of the values
 */

export class Sheet {
  /** @param {import("./weights_deck.mjs").WeightsDeck} deck */
  constructor(deck) {
    this.deck = deck;
    this.element = el("div", { class: "bw-sheet", role: "dialog", hidden: "", "data-capture-wheel": "true" });
    /** @type {Mode} */
    this.mode = "presets";
    /** @type {string[]} */
    this.pair = ["", ""];
    this.slot = 0;
    this.group = "all";
    this.seed = 1;
    /** @type {number[]} */
    this.before = [];
    this.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
  }

  get words() {
    return this.deck.host.words;
  }

  /** @param {Mode} mode */
  toggle(mode) {
    if (this.element.hidden || (this.mode === "shape") !== (mode === "shape")) this.open(mode);
    else this.close();
  }

  /** @param {Mode} mode */
  open(mode) {
    this.mode = mode;
    this.before = this.deck.tracks[this.deck.count - 1].values;
    this.pair = [mode === "blend" ? this.deck.presetName() : "", ""];
    this.slot = this.pair[0] ? 1 : 0;
    this.element.hidden = false;
    this.deck.element.classList.toggle("bw-strip", mode !== "presets");
    this.element.setAttribute("aria-label", this.words(mode === "shape" ? "shape" : "presets"));
    if (mode === "shape") this.element.replaceChildren(...this.shapeRows());
    else this.buildPresets();
    this.element.querySelector("input, select")?.focus({ preventScroll: true });
  }

  /** @param {string} group */
  openGroup(group) {
    this.group = group;
    this.open("shape");
  }

  close() {
    this.element.hidden = true;
    this.element.replaceChildren();
    this.deck.element.classList.remove("bw-strip");
    this.deck.element.querySelector(".bw-picker")?.focus({ preventScroll: true });
  }

  /** All presets of the deck's layout: measured ones, the user's own, LoRA Block Weight's on a LoRA, the built-in ones. @returns {Card[]} */
  presets() {
    const { blocks } = LAYOUTS[this.deck.layout];
    const { presets, measured, letters } = this.deck.host;
    const own = Object.entries(presets.values()).filter(([, values]) => values.length === blocks.length);
    const names = new Set(own.map(([name]) => name));
    const lora = this.deck.kind === "strength" && this.mode !== "blend" ? loraPresets(this.deck.layout, letters?.()).filter(({ name }) => !names.has(name)) : [];
    const built = Object.entries(builtIn(this.deck.layout)).filter(([name]) => !names.has(name));
    const found = (measured?.() ?? []).filter(({ values }) => blocks.some((block) => block in values));
    return [
      ...found.map(({ title, values }) => ({ name: title, values: blocks.map((block) => values[block] ?? 0), about: this.words("measuredHelp"), own: false, editable: false })),
      ...own.map(([name, values]) => ({ name, values, about: presets.about(name), own: true, editable: presets.editable(name) })),
      ...lora.map(({ name, values }) => ({ name, values, about: this.words("loraPreset"), own: false, editable: false, text: name })),
      ...built.map(([name, values]) => ({ name, values, about: "", own: false, editable: false })),
    ];
  }

  buildPresets() {
    const { words } = this;
    this.search = el("input", { type: "search", class: "bw-search", placeholder: words("search"), "aria-label": words("search") });
    this.search.addEventListener("input", () => this.list());
    const mode = button(words("blend"), words("blendHelp"), () => this.open(this.mode === "blend" ? "presets" : "blend"));
    mode.setAttribute("aria-pressed", String(this.mode === "blend"));
    const head = el("div", { class: "bw-sheet-head" }, [this.search, mode, button("\u00d7", words("close"), () => this.close())]);
    this.cards = el("div", { class: "bw-cards", role: "listbox", "aria-label": words("presets"), "data-scrolls": "" });
    this.cards.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const card = /** @type {HTMLElement} */ (event.target).closest(".bw-card");
      if (card instanceof HTMLElement) this.choose(card.dataset.name ?? "");
    });
    this.foot = el("div", { class: "bw-sheet-foot" });
    this.told = el("div", { class: "bw-error", role: "alert" });
    this.element.replaceChildren(head, this.cards, this.foot, this.told);
    this.list();
    this.footing();
  }

  list() {
    const wanted = this.search.value.trim().toLowerCase();
    const shown = this.presets().filter(({ name, about }) => `${name}\n${about}`.toLowerCase().includes(wanted));
    this.cards.replaceChildren(...shown.map((card) => this.card(card)));
    const first = this.cards.querySelector(".bw-card");
    if (first) first.tabIndex = 0;
    else this.cards.append(el("p", { class: "bw-none", text: this.words("none") }));
  }

  /** @param {Card} card */
  card({ name, values, about, own, editable }) {
    const title = presetTitle(name, this.deck.kind, this.words);
    const card = button("", [title, about].filter(Boolean).join("\n"), () => {}, "bw-card");
    card.dataset.name = name;
    card.tabIndex = -1;
    card.setAttribute("role", "option");
    card.setAttribute("aria-selected", String(this.mode === "blend" ? this.pair.includes(name) : name === this.deck.presetName()));
    card.append(curve(points(values, CARD.width, CARD.height), CARD.width, CARD.height), el("span", { text: title }));
    if (about) card.append(el("span", { class: "bw-about", text: about }));
    if (!own || !editable) return card;
    const remove = button("\u00d7", `${this.words("remove")}: ${name}`, () => void this.attempt(async () => {
      await this.deck.host.presets.remove(name);
      this.list();
      this.search.focus({ preventScroll: true });
    }), "bw-remove");
    return el("div", { class: "bw-own" }, [card, remove]);
  }

  /** @param {string} name */
  choose(name) {
    const { values, text } = this.presets().find((card) => card.name === name) ?? {};
    if (!values) return;
    if (this.mode !== "blend") {
      if (text) this.deck.write(text);
      else this.deck.apply(values);
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
    return this.presets().find((card) => card.name === name)?.values;
  }

  /** @param {boolean} final */
  blendNow(final) {
    const [first, second] = this.pair.map((name) => this.valuesOf(name));
    if (first && second) this.deck.apply(blend(first, second, Number(this.amount.value)), final);
  }

  footing() {
    this.foot.replaceChildren(...(this.mode === "blend" ? this.blendControls() : this.keepControls()));
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
      const chip = button(presetTitle(name, this.deck.kind, this.words) || this.words(slot ? "second" : "first"), this.words("blend"), () => {
        this.slot = slot;
        this.footing();
      }, "bw-chip");
      chip.setAttribute("aria-pressed", String(slot === this.slot));
      return chip;
    });
    return [chips[0], this.amount, number, chips[1]];
  }

  keepControls() {
    const { words } = this;
    const { presets } = this.deck.host;
    const text = (/** @type {string} */ key, /** @type {string} */ kind) =>
      el("input", { type: "text", class: `bw-keep ${kind}`, placeholder: words(key), "aria-label": words(key) });
    const name = text("keep", "bw-keep-name");
    const about = text("about", "bw-keep-about");
    const keep = button("+", words("keepHelp"), () => void this.attempt(async () => {
      if (!name.value.trim()) return;
      const { values, unknown = {} } = this.deck.tracks[this.deck.count - 1];
      if (Object.keys(unknown).length) throw new Error(words("atRunTime"));
      await presets.save(name.value.trim(), values, about.value.trim());
      name.value = about.value = "";
      this.list();
      this.deck.face.paint();
    }));
    for (const field of [name, about]) {
      field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Enter") keep.click();
      });
    }
    const file = el("input", { type: "file", accept: ".tsv,.txt,.csv", hidden: "", "aria-label": words("importHelp") });
    file.addEventListener("change", () => void this.attempt(async () => {
      const chosen = file.files?.[0];
      if (chosen) await presets.take(await chosen.text());
      this.list();
    }));
    return [name, about, keep, file,
      button(words("import"), words("importHelp"), () => file.click()),
      button(words("export"), words("exportHelp"), () => download("blockwork_presets.tsv", presets.text())),
    ];
  }

  /** Run something that the server may refuse, and show why. @param {() => Promise<void>} action */
  async attempt(action) {
    try {
      this.told.textContent = "";
      await action();
    } catch (error) {
      this.told.textContent = error instanceof Error ? error.message : String(error);
    }
  }

  shapeRows() {
    const { words, deck } = this;
    const number = (/** @type {string} */ key, /** @type {number | string} */ start) => {
      const input = el("input", { type: "text", inputmode: "decimal", class: "bw-small", "aria-label": words(key) });
      input.value = String(start);
      return input;
    };
    const label = (/** @type {string} */ key, /** @type {any} */ control) => el("label", { class: "bw-label" }, [words(key), control]);
    const select = (/** @type {string} */ key, /** @type {[string, string][]} */ options, /** @type {string} */ chosen) => {
      const found = el("select", { class: "bw-select", "aria-label": words(key) }, options.map(([value, text]) => el("option", { value, text })));
      found.value = chosen;
      return found;
    };
    const groups = groupsOf(LAYOUTS[deck.layout]);
    if (!(this.group in groups)) this.group = "all";
    const group = select("group", Object.keys(groups).map((name) => [name, groupTitle(name, words)]), this.group);
    group.addEventListener("change", () => (this.group = group.value));
    const how = select("how", [["set", words("set")], ["add", words("addBy")], ["multiply", words("multiply")]], "set");
    const by = number("by", "0.5");
    const apply = button(words("apply"), words("groupHelp"), () => {
      const value = numberOf(by.value);
      if (value !== null) deck.changeGroup(groups[group.value], how.value, value);
    });
    const factor = number("scaleBy", "1");
    const offset = number("offset", "0");
    const rescale = () => {
      const [times, plus] = [numberOf(factor.value), numberOf(offset.value)];
      if (times !== null && plus !== null) deck.apply(scale(this.before, times, plus));
    };
    for (const input of [factor, offset]) input.addEventListener("change", rescale);
    const low = number("low", "0");
    const high = number("high", "1");
    const seed = number("seed", this.seed);
    const tries = el("div", { class: "bw-tries", role: "group", "aria-label": words("diceHelp") });
    const roll = button(words("dice"), words("diceHelp"), () => {
      const [from, to, start] = [low, high, seed].map((input) => numberOf(input.value));
      if (from === null || to === null || start === null) return;
      tries.replaceChildren(...Array.from({ length: TRIES }, (_, n) => {
        const values = dice(LAYOUTS[deck.layout].blocks.length, start + n, from, to);
        const take = button("", `${words("seed")} ${start + n}`, () => deck.apply(values), "bw-try");
        take.setAttribute("aria-label", `${words("seed")} ${start + n}`);
        take.append(curve(points(values, 44, 20), 44, 20));
        return take;
      }));
      this.seed = start + TRIES;
      seed.value = String(this.seed);
    });
    return [
      el("div", { class: "bw-sheet-head" }, [label("group", group), how, by, apply, el("span", { class: "bw-gap" }), button("\u00d7", words("close"), () => this.close())]),
      el("div", { class: "bw-sheet-head" }, [label("scaleBy", factor), label("offset", offset), el("span", { class: "bw-gap" }), label("low", low), label("high", high), label("seed", seed), roll]),
      tries,
    ];
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Escape") {
      this.close();
    } else if (event.key === "Enter" && event.target === this.search) {
      this.cards.querySelector(".bw-card")?.click();
    } else if (event.key.startsWith("Arrow") && this.mode !== "shape" && (event.target === this.search || /** @type {Element} */ (event.target).matches(".bw-card"))) {
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

/** @param {string} name @param {(key: string) => string} words */
function groupTitle(name, words) {
  return name === "all" ? words("all") : name === "attention" ? words("attentionBlocks") : name;
}

/** Hand the browser a file. @param {string} name @param {string} text */
function download(name, text) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
  el("a", { href, download: name }).click();
  URL.revokeObjectURL(href);
}
