// @ts-check
/**
 * The block deck: one bar per block, standing in the shape of the U-Net. The text is the one truth; everything
 * here is painted from it, and every change goes out as a new text.
 */

import { LAYOUTS, place } from "./blocks.mjs";
import { button, curve, el } from "./dom.mjs";
import { attach } from "./gestures.mjs";
import { PRESETS } from "./presets.mjs";
import { invert, mirror, points, range, relayout, same, solo } from "./shaping.mjs";
import { Sheet } from "./sheet.mjs";
import { WeightsError, format, numberText, parse } from "./weights.mjs";

const PAIR_SEPARATOR = " | ";
const APART = ["BASE", "VAE"];
const THUMB = { width: 60, height: 16 };

/**
 * @typedef {object} Host what the deck needs from the node it stands on
 * @property {(text: string, final: boolean) => void} write
 * @property {number} neutral the weight that leaves model A as it is, where there is one track
 * @property {() => void} undo
 * @property {(event: WheelEvent) => void} forward
 * @property {() => Record<string, number[]>} own the user's presets
 * @property {(presets: Record<string, number[]>) => void} keepOwn
 * @property {(key: string) => string} words
 * @property {(layout?: string) => string} layout reads or sets the layout that texts such as `GRAD_V` mean
 */

export class WeightsDeck {
  /** @param {Host} host @param {number} tracks 1, or 2 for M_A | M_B pairs */
  constructor(host, tracks = 1) {
    this.host = host;
    this.count = tracks;
    this.minHeight = tracks > 1 ? 470 : 410;
    this.text = "";
    this.error = "";
    /** @type {import("./weights.mjs").Weights[]} */
    this.tracks = [];
    /** @type {{text: string, before: string, index: number} | null} */
    this.soloed = null;
    this.built = "";
    this.u = el("div", { class: "bw-u", role: "group" });
    this.apart = el("div", { class: "bw-apart" });
    this.sheet = new Sheet(this);
    this.element = el("div", { class: `bw-deck${tracks > 1 ? " bw-pair" : ""}`, title: "" }, [
      this.toolbar(),
      this.u,
      this.apart,
      this.footer(),
      this.sheet.element,
    ]);
    attach(this.element, {
      get: (bar) => this.get(bar),
      set: (bar, value, final) => this.set(bar, value, final),
      scale: () => this.scale(),
      solo: (bar) => this.solo(bar.dataset.key ?? ""),
      reset: (bar) => this.rest(Number(bar.dataset.track)),
      forward: host.forward,
    });
  }

  /** Paint a text; one that cannot be read is shown as it is, with the reason. @param {string} text */
  show(text) {
    this.text = text;
    try {
      this.tracks = this.read(text);
      this.error = "";
    } catch (error) {
      if (!(error instanceof WeightsError)) throw error;
      this.error = error.message;
      if (!this.tracks.length) this.tracks = this.blank("sd1");
    }
    this.paint();
  }

  /** @param {string} text */
  read(text) {
    const parts = this.count > 1 ? text.split("|") : [text];
    if (parts.length !== this.count) throw new WeightsError("expected two lists: M_A | M_B");
    const own = this.host.own();
    const readAs = (/** @type {string} */ layout) => parts.map((part, track) => parse(part, layout, own, this.rest(track)));
    const first = readAs(this.host.layout());
    // `1 | 19 numbers`: the side that tells the layout tells it for both
    const telling = first.find(({ layout }) => layout !== this.host.layout());
    const tracks = telling ? readAs(telling.layout) : first;
    if (tracks.some(({ layout }) => layout !== tracks[0].layout)) {
      throw new WeightsError("M_A and M_B have different numbers of blocks");
    }
    return tracks;
  }

  get layout() {
    return this.tracks[0]?.layout ?? "sd1";
  }

  /** The value that leaves model A alone on a track. @param {number} track */
  rest(track) {
    if (this.count > 1) return track === 0 ? 1 : 0;
    return this.host.neutral;
  }

  /** @param {string} layout */
  blank(layout) {
    return Array.from({ length: this.count }, (_, track) => ({
      layout,
      values: LAYOUTS[layout].blocks.map(() => this.rest(track)),
      extra: {},
    }));
  }

  /** The values all bars share a scale for. */
  scale() {
    return range(this.tracks.flatMap(({ values, extra }) => [...values, ...Object.values(extra)]));
  }

  /** @param {HTMLInputElement} bar */
  get(bar) {
    const { values, extra } = this.tracks[Number(bar.dataset.track)];
    const key = bar.dataset.key ?? "";
    return key in extra ? extra[key] : values[LAYOUTS[this.layout].blocks.indexOf(key)];
  }

  /** @param {HTMLInputElement} bar @param {number} value @param {boolean} final */
  set(bar, value, final) {
    const key = bar.dataset.key ?? "";
    const index = LAYOUTS[this.layout].blocks.indexOf(key);
    this.change(
      (weights, track) => {
        if (track !== Number(bar.dataset.track)) return weights;
        if (index < 0) return { ...weights, extra: { ...weights.extra, [key]: value } };
        return { ...weights, values: weights.values.with(index, value) };
      },
      final,
    );
  }

  /**
   * Write the text of changed weights.
   * @param {(weights: import("./weights.mjs").Weights, track: number) => import("./weights.mjs").Weights} how
   * @param {boolean} [final] whether the gesture ends here
   */
  change(how, final = true) {
    this.host.write(this.tracks.map(how).map(format).join(PAIR_SEPARATOR), final);
  }

  /** @param {(values: number[], track: number) => number[]} how @param {boolean} [final] */
  reshape(how, final = true) {
    this.change((weights, track) => ({ ...weights, values: how(weights.values, track) }), final);
  }

  /** A preset's shares of B; on a pair M_A gets what is left of 1. @param {number[]} values @param {boolean} [final] */
  apply(values, final = true) {
    this.reshape((_, track) => (this.count > 1 && track === 0 ? invert(values) : values), final);
  }

  /** One block alone, all others back to model A; a second time the text from before. @param {string} key */
  solo(key) {
    const index = LAYOUTS[this.layout].blocks.indexOf(key);
    if (index < 0) return;
    const { soloed } = this;
    if (soloed?.index === index && soloed.text === this.text) {
      this.host.write(soloed.before, true);
      return;
    }
    const before = soloed?.text === this.text ? soloed.before : this.text;
    if (soloed?.text === this.text) this.tracks = this.read(before);
    this.reshape((values, track) => solo(values, index, this.rest(track)));
    this.soloed = { text: this.text, before, index };
    this.paint();
  }

  /** Name of the preset the weights are, the user's own first; empty for none. */
  presetName() {
    const values = this.tracks[this.count - 1].values;
    if (this.count > 1 && !same(this.tracks[0].values, invert(values))) return "";
    const known = { ...PRESETS[this.layout], ...this.host.own() };
    return Object.keys(known).reverse().find((name) => same(known[name], values)) ?? "";
  }

  toolbar() {
    const { words } = this.host;
    this.presetLabel = el("span", { class: "bw-preset-name" });
    this.thumb = el("span", { class: "bw-thumb" });
    const picker = button("", words("presetsHelp"), () => this.sheet.toggle(), "bw-picker");
    picker.setAttribute("aria-haspopup", "dialog");
    picker.append(this.thumb, this.presetLabel, el("span", { class: "bw-caret", "aria-hidden": "true", text: "\u25be" }));
    this.layoutButtons = Object.values(LAYOUTS).map(({ id, title }) => {
      const choose = button(title, words("layoutHelp"), () => this.relayout(id), "bw-segment");
      choose.dataset.layout = id;
      return choose;
    });
    const layouts = el("span", { class: "bw-segments", role: "group", "aria-label": words("layoutHelp") }, this.layoutButtons);
    const shaping = el("div", { class: "bw-tools" }, [
      button(words("mirror"), words("mirrorHelp"), () => this.reshape((values) => mirror(values))),
      button(words("invert"), words("invertHelp"), () => this.invert()),
      button(words("reset"), words("resetHelp"), () => this.reshape((values, track) => values.map(() => this.rest(track)))),
      button(words("undo"), words("undoHelp"), () => this.host.undo()),
    ]);
    return el("div", { class: "bw-toolbar" }, [picker, layouts, shaping]);
  }

  footer() {
    const { words } = this.host;
    this.field = el("input", { type: "text", class: "bw-text", spellcheck: "false", "aria-label": words("textLabel") });
    this.field.addEventListener("change", () => this.host.write(this.field.value.trim(), true));
    this.field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") this.field.blur();
    });
    const copy = button(words("copy"), words("copyHelp"), () => void navigator.clipboard.writeText(this.text));
    const paste = button(words("paste"), words("pasteHelp"), async () => {
      this.host.write((await navigator.clipboard.readText()).trim(), true);
    });
    this.message = el("div", { class: "bw-error", role: "alert" });
    return el("div", { class: "bw-footer" }, [this.field, copy, paste, this.message]);
  }

  invert() {
    if (this.count === 1) this.reshape((values) => invert(values));
    else this.change((_, track) => this.tracks[1 - track]);
  }

  /** @param {string} to */
  relayout(to) {
    const from = this.layout;
    this.host.layout(to);
    if (to === from) return;
    const preset = this.presetName();
    this.change(({ values, extra }, track) => {
      const named = PRESETS[to][preset];
      const share = named && (this.count > 1 && track === 0 ? invert(named) : named);
      return { layout: to, values: share ?? relayout(values, from, to, this.rest(track)), extra };
    });
  }

  /** Take BASE or VAE into the list, or out of it. @param {string} key */
  toggleApart(key) {
    this.change((weights, track) => {
      const extra = { ...weights.extra };
      if (key in extra) delete extra[key];
      else extra[key] = this.rest(track);
      return { ...weights, extra };
    });
  }

  build() {
    const layout = LAYOUTS[this.layout];
    this.built = this.layout;
    this.u.replaceChildren(
      ...layout.blocks.map((block) => {
        const { side, row, level } = place(layout, block);
        const style = `grid-row:${row + 1};--level:${level};--hue:${205 + (115 * layout.blocks.indexOf(block)) / layout.blocks.length}`;
        const name = button(block, this.host.words("solo"), () => this.solo(block), "bw-name");
        name.tabIndex = -1;
        return el("div", { class: `bw-row bw-${side}`, style }, [name, this.slot(block)]);
      }),
    );
    this.apart.replaceChildren(
      ...APART.map((key) => {
        const name = button(key, this.host.words("baseHelp"), () => this.toggleApart(key), "bw-name");
        return el("div", { class: "bw-row bw-in", style: "--level:0;--hue:160" }, [name, this.slot(key)]);
      }),
    );
    /** @type {HTMLInputElement[]} */
    this.bars = [...this.element.querySelectorAll(".bw-bar")];
  }

  /** The bars of one block, one per track. @param {string} key */
  slot(key) {
    const { words } = this.host;
    const bars = this.tracks.map((_, track) => {
      const meaning = this.count === 1 ? words("share") : words(track ? "shareB" : "shareA");
      const bar = el("input", {
        type: "range", step: "any", class: "bw-bar", "data-capture-wheel": "true", title: words("barHelp"),
        "aria-label": `${key} ${meaning}`, "data-key": key, "data-track": track,
      });
      return el("span", { class: `bw-slot bw-track${track}` }, [bar, el("span", { class: "bw-value", "aria-hidden": "true" })]);
    });
    return el("span", { class: "bw-slots" }, bars);
  }

  paint() {
    if (this.built !== this.layout) this.build();
    const { low, high } = this.scale();
    const at = (/** @type {number} */ value) => (100 * (value - low)) / (high - low);
    for (const bar of this.bars ?? []) {
      const value = this.get(bar);
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
      choose.setAttribute("aria-pressed", String(choose.dataset.layout === this.layout));
    }
    const shares = this.tracks[this.count - 1].values;
    this.presetLabel.textContent = this.presetName() || this.host.words("custom");
    this.thumb.replaceChildren(curve(points(shares, THUMB.width, THUMB.height), THUMB.width, THUMB.height));
    if (document.activeElement !== this.field || this.field.value.trim() !== this.text) this.field.value = this.text;
    this.message.textContent = this.error;
    this.element.classList.toggle("bw-unread", Boolean(this.error));
    const soloed = this.soloed?.text === this.text ? this.soloed.index : -1;
    [...this.u.children].forEach((row, index) => row.classList.toggle("bw-solo", index === soloed));
  }
}

/** Three places at most, as on a small display. @param {number} value */
function brief(value) {
  return String(Math.round(value * 1000) / 1000 + 0);
}
