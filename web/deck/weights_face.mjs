// @ts-check
/** How the block deck looks: presets and tools above, the bars in the shape of the model, the text below. */

import { bar, brief, name, paintBar, rowAttributes, visitOrder } from "./bars.mjs";
import { LAYOUTS, extent, place } from "./blocks.mjs";
import { copy, pasted } from "./clipboard.mjs";
import { button, curve, el } from "./dom.mjs";
import { describe } from "./facts.mjs";
import { presetTitle } from "./meaning.mjs";
import { rove } from "./rove.mjs";
import { mirror, points } from "./shaping.mjs";
import { Sheet } from "./sheet.mjs";
import { numberText } from "./weights.mjs";

const THUMB = { width: 60, height: 16 };
const TOOLS = /** @type {import("./gestures.mjs").Tool[]} */ (["bar", "paint", "level", "brush"]);
const CHROME = 158; // px of the deck around its bars
const APART_GAP = 8;
const ROW = { 1: 24, 2: 28 }; // by the number of tracks
const SAID = 2500; // ms that a short message stays

export class WeightsFace {
  /** @param {import("./weights_deck.mjs").WeightsDeck} deck */
  constructor(deck) {
    this.deck = deck;
    this.built = "";
    this.saidTimer = 0;
    const { words } = deck.host;
    /** @type {HTMLElement[]} */
    this.bars = [];
    /** @type {HTMLElement[]} */
    this.order = [];
    this.u = el("div", { class: "bw-u", role: "group", "aria-label": words("weights") });
    this.apart = el("div", { class: "bw-apart", role: "group", "aria-label": words("outside") });
    this.banner = el("div", { class: "bw-banner", role: "status" });
    this.sheet = new Sheet(deck);
    this.body = el("div", { class: "bw-body" }, [this.meaning(), this.u, this.apart]);
    this.element = el("div", { class: `bw-deck${deck.count > 1 ? " bw-pair" : ""}`, role: "group", "aria-label": words("deck"), title: "" }, [
      this.toolbar(), this.sheet.element, this.body, this.footer(), this.banner,
    ]);
    this.rovers = [
      rove(this.tools, "button"),
      rove(this.actions, "button"),
      rove(this.body, ".bw-bar", false),
    ];
  }

  get minHeight() {
    const layout = LAYOUTS[this.deck.layout];
    const more = Math.max(0, Math.ceil(layout.apart.length / 2) - 1); // rows of names outside the blocks, after the first
    return CHROME + (extent(layout).rows + more) * ROW[/** @type {1 | 2} */ (this.deck.count)] + more * APART_GAP;
  }

  toolbar() {
    const { words } = this.deck.host;
    this.presetLabel = el("span", { class: "bw-preset-name" });
    this.thumb = el("span", { class: "bw-thumb" });
    const picker = button("", words("presetsHelp"), () => this.sheet.toggle("presets"), "bw-picker");
    picker.setAttribute("aria-haspopup", "dialog");
    picker.append(this.thumb, this.presetLabel, el("span", { class: "bw-caret", "aria-hidden": "true", text: "\u25be" }));
    this.picker = picker;
    this.layouts = el("span", { class: "bw-segments", role: "group", "aria-label": words("layoutHelp") });
    this.toolButtons = TOOLS.map((tool) => {
      const choose = button(words(tool), words(tool === "bar" ? "barToolHelp" : `${tool}Help`), () => {
        this.deck.tool = tool;
        this.paint();
      }, "bw-segment");
      choose.dataset.tool = tool;
      return choose;
    });
    const kinds = el("span", { class: "bw-segments", role: "group", "aria-label": words("toolHelp") }, this.toolButtons);
    const shaping = el("div", { class: "bw-tools" }, [
      kinds,
      button(words("shape"), words("shapeHelp"), () => this.sheet.toggle("shape")),
      button(words("mirror"), words("mirrorHelp"), () => this.deck.reshape((values) => mirror(values), true, (value) => value)),
      button(words("invert"), words(this.deck.kind === "share" || this.deck.kind === "pair" ? "invertHelp" : "invertPlain"), () => this.deck.invert()),
      button(words("reset"), words(this.deck.rest(this.deck.count - 1) ? "resetOne" : "resetHelp"), () => this.deck.reshape((values, track) => values.map(() => this.deck.rest(track)))),
      button(words("undo"), words("undoHelp"), () => this.deck.host.undo()),
    ]);
    this.tools = el("div", { class: "bw-toolbar", role: "toolbar", "aria-label": words("toolbar") }, [picker, this.layouts, shaping]);
    return this.tools;
  }

  /** One line that says what an empty and a full bar are. */
  meaning() {
    const { words } = this.deck.host;
    const { kind } = this.deck;
    this.means = el("div", { class: "bw-means" }, [
      el("span", { text: words(`${kind}Low`) }),
      el("span", { class: "bw-means-arrow", "aria-hidden": "true" }),
      el("span", { text: words(`${kind}High`) }),
    ]);
    return this.means;
  }

  footer() {
    const { words } = this.deck.host;
    this.field = el("input", { type: "text", class: "bw-text", spellcheck: "false", "aria-label": words("textLabel") });
    this.field.addEventListener("change", () => this.deck.write(this.field.value.trim()));
    this.field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") this.field.blur();
    });
    this.actions = el("span", { class: "bw-actions", role: "toolbar", "aria-label": words("textLabel") }, [
      button(words("copy"), words("copyHelp"), () => void this.copy()),
      button(words("paste"), words("pasteHelp"), () => void this.paste()),
    ]);
    this.message = el("div", { class: "bw-error", role: "alert" });
    this.said = el("div", { class: "bw-said", role: "status" });
    return el("div", { class: "bw-footer" }, [this.field, this.actions, this.message, this.said]);
  }

  async copy() {
    const { words } = this.deck.host;
    this.say(words((await copy(this.deck.text, this.element)) ? "copied" : "copyRefused"));
  }

  async paste() {
    const { words } = this.deck.host;
    const text = await pasted();
    if (text) {
      this.deck.write(text);
      this.say(words("pasted"));
      return;
    }
    this.field.focus({ preventScroll: true });
    this.field.select();
    this.say(words(text === null ? "pasteKeys" : "pasteEmpty"));
  }

  /** A short message below the bars. @param {string} text */
  say(text) {
    this.said.textContent = text;
    clearTimeout(this.saidTimer);
    this.saidTimer = window.setTimeout(() => (this.said.textContent = ""), SAID);
  }

  build() {
    const { layout: id, host } = this.deck;
    const layout = LAYOUTS[id];
    this.built = id;
    const { columns } = extent(layout);
    this.u.classList.toggle("bw-columns", !layout.arms);
    this.u.style.setProperty("--columns", String(columns));
    this.u.replaceChildren(
      ...(layout.arms ? [] : layout.stacks.map((stack) => this.handle(stack))),
      ...layout.blocks.map((block) => {
        const label = name(block, `${describe(id, block, host.words)}\n${host.words("solo")}`, () => this.deck.solo(block));
        return el("div", rowAttributes(id, block), [label, this.slot(block)]);
      }),
    );
    this.apart.replaceChildren(
      ...layout.apart.map((key) => {
        const label = button(key, host.words("baseHelp"), () => this.deck.toggleApart(key), "bw-name");
        label.tabIndex = -1;
        return el("div", { class: "bw-row bw-in", style: "--level:0;--hue:160" }, [label, this.slot(key), this.adder(key)]);
      }),
    );
    this.bars = [...this.element.querySelectorAll(".bw-bar")];
    this.order = visitOrder(this.bars, id);
    this.element.style.minHeight = `${this.minHeight - 8}px`;
    this.layouts.replaceChildren(...["sd1", "sdxl"].map((other) => {
      const choose = button(LAYOUTS[other].title, host.words("layoutHelp"), () => this.deck.relayout(other), "bw-segment");
      choose.dataset.layout = other;
      return choose;
    }), this.otherLayouts(layout));
    this.without = -1;
  }

  /** A menu of the layouts of other models. @param {import("./blocks.mjs").Layout} layout */
  otherLayouts(layout) {
    const { words } = this.deck.host;
    const others = Object.values(LAYOUTS).filter(({ id, arms, name: key }) => !arms && (id === key || id === layout.id));
    const menu = el("select", { class: "bw-select bw-layouts", "aria-label": words("otherLayouts"), title: words("otherLayouts") }, [
      el("option", { value: "", text: words("otherLayout") }),
      ...others.map(({ id, title }) => el("option", { value: id, text: title })),
    ]);
    menu.value = layout.arms ? "" : layout.id;
    menu.addEventListener("change", () => menu.value && this.deck.relayout(menu.value));
    return menu;
  }

  /** The title of a stack, which moves the whole stack. @param {import("./blocks.mjs").Stack} stack */
  handle({ letter, title, blocks }) {
    const { column, row } = place(LAYOUTS[this.deck.layout], blocks[0]);
    const text = title && title !== letter ? `${letter} ${title}` : letter;
    const handle = button(`${text} \u00b7 ${blocks.length}`, this.deck.host.words("stackHelp"), () => this.sheet.openGroup(letter), "bw-stack");
    handle.style.gridColumn = String(column + 1);
    handle.style.gridRow = String(row);
    handle.tabIndex = -1;
    return handle;
  }

  /** In place of the bar of a name that the list does not hold. @param {string} key */
  adder(key) {
    const add = button(this.deck.host.words("add").replace("{}", key), this.deck.host.words("baseHelp"), () => this.deck.toggleApart(key), "bw-add");
    return add;
  }

  /** The bars of one block, one per track. @param {string} key */
  slot(key) {
    const { host, kind, count, layout } = this.deck;
    const title = `${describe(layout, key, host.words)}\n${host.words("barHelp")}`;
    const bars = this.deck.tracks.map((_, track) => {
      const meaning = count === 1 ? host.words(kind) : host.words(track ? "shareB" : "shareA");
      return bar(key, track, `${key} ${meaning}`, title);
    });
    return el("span", { class: "bw-slots" }, bars);
  }

  paint() {
    const { deck } = this;
    const { words } = deck.host;
    if (this.built !== deck.layout) this.build();
    const unknown = deck.link?.text === null;
    const scale = deck.scale();
    const muted = deck.host.muted?.() ?? {};
    const bypassed = (/** @type {HTMLElement} */ bar) => deck.tracks[Number(bar.dataset.track)].off?.includes(bar.dataset.key ?? "");
    const lateOf = (/** @type {HTMLElement} */ bar) => deck.tracks[Number(bar.dataset.track)].unknown?.[bar.dataset.key ?? ""];
    let without = 0;
    for (const element of this.bars) {
      const value = unknown ? undefined : deck.get(element);
      const kept = muted[`${element.dataset.track}/${element.dataset.key}`];
      const off = kept !== undefined && deck.isMuted(element);
      if (element.classList.contains("bw-muted") !== off) element.classList.toggle("bw-muted", off);
      const late = unknown ? undefined : lateOf(element);
      if (late !== undefined) paintBar(element, undefined, scale, late, `${late}: ${words(late.includes("/") ? "middleParts" : "atRunTime")}`);
      else if (value === undefined) paintBar(element, undefined, scale, "");
      else if (bypassed(element)) paintBar(element, 0, scale, words("off"), words("bypassed"));
      else paintBar(element, value, scale, off ? `${words("muted")} ${brief(kept)}` : brief(value), numberText(value));
      if (value === undefined || late !== undefined) without++;
    }
    this.tint();
    this.hatch();
    if (this.without !== without) {
      this.without = without;
      for (const refresh of this.rovers ?? []) refresh();
    }
    for (const row of this.apart.children) {
      const bar = /** @type {HTMLElement} */ (row.querySelector(".bw-bar"));
      row.classList.toggle("bw-absent", bar.getAttribute("aria-disabled") === "true" && !unknown && lateOf(bar) === undefined);
    }
    for (const choose of this.layouts.querySelectorAll("button")) choose.setAttribute("aria-pressed", String(choose.dataset.layout === deck.layout));
    for (const choose of this.toolButtons) choose.setAttribute("aria-pressed", String(choose.dataset.tool === deck.tool));
    const { values, layout, unknown: late = {} } = deck.tracks[deck.count - 1];
    const shares = values.filter((_, index) => !(LAYOUTS[layout].blocks[index] in late));
    const title = unknown ? "" : presetTitle(deck.presetName(), deck.kind, words) || words("custom");
    const stamp = `${title} ${shares.join()}`;
    if (this.stamp !== stamp) {
      this.stamp = stamp;
      this.presetLabel.textContent = title;
      this.picker.setAttribute("aria-label", `${words("presets")}: ${title}`);
      this.thumb.replaceChildren(curve(points(shares, THUMB.width, THUMB.height), THUMB.width, THUMB.height));
    }
    if (document.activeElement !== this.field || this.field.value.trim() !== deck.text) this.field.value = deck.text;
    this.note();
    this.element.classList.toggle("bw-unread", Boolean(deck.error));
    this.element.classList.toggle("bw-unknown", unknown);
    const soloed = deck.soloed?.text === deck.text ? deck.soloed.index : -1;
    if (this.soloed !== soloed) {
      this.soloed = soloed;
      for (const row of this.u.querySelectorAll(".bw-row")) row.classList.toggle("bw-solo", row.querySelector(".bw-bar")?.dataset.key === LAYOUTS[deck.layout].blocks[soloed]);
    }
  }

  /** A line below each bar, stronger where the block changed more in the last sweep or comparison. */
  tint() {
    const found = this.deck.host.measured?.()[0];
    const stamp = found ? `${this.built} ${found.title} ${JSON.stringify(found.values)}` : "";
    if (this.tinted === stamp) return;
    this.tinted = stamp;
    this.element.classList.toggle("bw-measured", Boolean(found));
    for (const bar of this.bars) {
      const share = found?.values[bar.dataset.key ?? ""];
      bar.style.setProperty("--measured", String(share ?? 0));
      const [told] = (bar.title ?? "").split("\n").filter((line) => line.startsWith(`${bar.dataset.key}:`));
      bar.title = [told, share === undefined ? "" : `${found?.title}: ${share}`, this.deck.host.words("barHelp")].filter(Boolean).join("\n");
    }
  }

  /** Blocks that the LoRA does not change are hatched. */
  hatch() {
    const untouched = this.deck.host.untouched?.() ?? [];
    const stamp = `${this.built} ${untouched.join()} ${this.tinted}`;
    if (this.hatched === stamp) return;
    this.hatched = stamp;
    const told = this.deck.host.words("untouched");
    for (const bar of this.bars) {
      const is = untouched.includes(bar.dataset.key ?? "");
      bar.classList.toggle("bw-untouched", is);
      const lines = (bar.title ?? "").split("\n").filter((line) => line !== told);
      bar.title = [...(is ? [told] : []), ...lines].join("\n");
    }
  }

  /** The error, what the node does to the numbers afterwards, and where a linked text comes from. */
  note() {
    const { deck } = this;
    const { words } = deck.host;
    this.message.textContent = deck.error || (deck.host.shaping?.() ? words("shapedHelp") : "");
    this.message.classList.toggle("bw-note", !deck.error);
    const { link } = deck;
    const key = link?.text === null ? "linkedUnknown" : link?.ran ? "linkedRan" : "linked";
    this.banner.textContent = link ? words(key).replace("{}", link.from) : "";
  }
}
