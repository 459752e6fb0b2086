// @ts-check
/**
 * The block deck: one bar per block, in the shape of the model. The text is the one truth; everything is painted
 * from it, and every change goes out as a new text.
 */

import { LAYOUTS, levelOf } from "./blocks.mjs";
import { shortcuts } from "./clipboard.mjs";
import { attach } from "./gestures.mjs";
import { formatLora, isLoraPreset, known, parseLora, reshaped } from "./lora_weights.mjs";
import { brushed, invert, range, relayout, same, shaped, together } from "./shaping.mjs";
import { WeightsError, builtIn, format, parse, presetValues, withValue } from "./weights.mjs";
import { WeightsFace } from "./weights_face.mjs";

const PAIR_SEPARATOR = " | ";
const BRUSH_SHARE = 1 / 12; // width of the brush, as a share of all blocks

/**
 * @typedef {object} Host what the deck needs from the node it is on
 * @property {(text: string, final: boolean) => void} write
 * @property {number} neutral the weight that leaves model A as it is, where there is one track
 * @property {import("./meaning.mjs").Kind} [kind] what the weights mean; `strength` is a LoRA
 * @property {() => import("./lora_weights.mjs").Letters} [letters] the values of A and B in the text of a LoRA
 * @property {() => void} undo
 * @property {(event: WheelEvent) => void} forward
 * @property {import("./own_presets.mjs").OwnPresets} presets the user's presets
 * @property {(key: string) => string} words
 * @property {(layout?: string) => string} layout reads or sets the layout that texts such as `GRAD_V` mean
 * @property {(muted?: Record<string, number>) => Record<string, number>} [muted] reads or keeps the numbers of muted bars
 * @property {() => import("./shaping.mjs").Shaping | null} [shaping] what the node does to the numbers afterwards, or null
 * @property {() => void} [bake] sets the node's shaping to nothing, because the text holds its result
 * @property {() => string[]} [untouched] the blocks that the node's LoRA does not change, as its last run told
 * @property {() => {title: string, values: Record<string, number>}[]} [measured] how far each block moved, 0 to 1
 */

/**
 * @typedef {import("./weights.mjs").Weights} Weights
 * @typedef {{text: string | null, from: string, ran: boolean}} Link the text that a link brings, null while unknown
 */

export class WeightsDeck {
  /** @param {Host} host @param {number} tracks 1, or 2 for M_A | M_B pairs */
  constructor(host, tracks = 1) {
    this.host = host;
    this.count = tracks;
    this.kind = host.kind ?? (tracks > 1 ? "pair" : "share");
    this.format = this.kind === "strength" ? formatLora : format;
    this.text = "";
    this.error = "";
    /** @type {Weights[]} */
    this.tracks = [];
    /** @type {Link | null} */
    this.link = null;
    /** @type {{text: string, tracks: Weights[]} | null} what was there before the running gesture */
    this.held = null;
    /** @type {{text: string, before: string, index: number} | null} */
    this.soloed = null;
    /** @type {import("./gestures.mjs").Tool} */
    this.tool = "bar";
    this.face = new WeightsFace(this);
    this.element = this.face.element;
    attach(this.element, {
      get: (bar) => this.get(bar),
      set: (bar, value, final) => this.set(bar, value, final),
      cancel: () => this.cancel(),
      tool: () => this.tool,
      paint: (values) => this.paintValues(values),
      pull: (bar, value, tool) => this.pull(bar, value, tool),
      scale: () => this.scale(),
      solo: (bar) => this.solo(bar.dataset.key ?? ""),
      mute: (bar) => this.mute(bar),
      reset: (bar) => this.rest(Number(bar.dataset.track)),
      forward: host.forward,
      order: () => this.face.order,
    });
    shortcuts(this.element, () => this.text, (text) => this.write(text), (what) => this.face.say(host.words(what)));
  }

  get minHeight() {
    return this.face.minHeight;
  }

  /** Paint a text; one that cannot be read is shown as it is, with the reason. @param {string} text @param {Link | null} [link] */
  show(text, link = null) {
    this.link = link;
    this.text = link ? (link.text ?? "") : text;
    try {
      this.tracks = this.shape(link?.text === null ? this.blank(this.host.layout()) : this.read(this.text));
      this.error = "";
    } catch (error) {
      if (!(error instanceof WeightsError)) throw error;
      this.error = error.message;
      if (!this.tracks.length) this.tracks = this.blank(this.host.layout());
    }
    this.face.paint();
  }

  /** @param {string} text */
  read(text) {
    const parts = this.count > 1 ? text.split("|") : [text];
    if (parts.length !== this.count) throw new WeightsError("Expected two lists: M_A | M_B.");
    const own = this.host.presets.values();
    const readAs = (/** @type {string} */ layout) => parts.map((part, track) => (
      this.kind === "strength" ? parseLora(part, layout, own, this.host.letters?.()) : parse(part, layout, own, this.rest(track))
    ));
    const first = readAs(this.host.layout());
    // `1 | 19 numbers`: the side that tells the layout tells it for both
    const telling = first.find(({ layout }) => layout !== this.host.layout());
    const tracks = telling ? readAs(telling.layout) : first;
    if (tracks.some(({ layout }) => layout !== tracks[0].layout)) {
      throw new WeightsError("M_A and M_B have different numbers of blocks.");
    }
    if (tracks.some(({ off }) => off?.length) && this.kind !== "factor" && this.kind !== "plain") {
      throw new WeightsError("off bypasses a block of one model. Use it in Scale Blocks, and a number here.");
    }
    return tracks;
  }

  /** What the node makes of the numbers. @param {Weights[]} tracks @returns {Weights[]} */
  shape(tracks) {
    const shaping = this.link?.ran ? null : this.host.shaping?.(); // a node reports what it put out
    if (!shaping) return tracks;
    return tracks.map(({ layout, values, extra, rest }) => {
      const second = presetValues(shaping.blend_with, layout);
      const alone = (/** @type {number} */ value) => shaped([value], { ...shaping, mirror: false }, undefined)[0];
      const apart = Object.entries(extra).map(([name, value]) => [name, alone(value)]);
      return {
        layout, values: shaped(values, shaping, second), extra: Object.fromEntries(apart), named: null,
        rest: rest === null || second ? null : alone(rest),
      };
    });
  }

  /** The text of what the bars show: what Block Weights puts out. */
  output() {
    return this.error || this.link?.text === null ? null : this.tracks.map(this.format).join(PAIR_SEPARATOR);
  }

  get layout() {
    return this.tracks[0]?.layout ?? "sd1";
  }

  /** The value that leaves model A alone on a track. @param {number} track */
  rest(track) {
    if (this.count > 1) return track === 0 ? 1 : 0;
    return this.host.neutral;
  }

  /** @param {string} layout @returns {Weights[]} */
  blank(layout) {
    return Array.from({ length: this.count }, (_, track) => ({
      layout,
      values: LAYOUTS[layout].blocks.map(() => this.rest(track)),
      extra: {},
      named: [],
      rest: null,
    }));
  }

  /** The values all bars share a scale for. */
  scale() {
    return range(this.tracks.flatMap(({ values, extra }) => [...values, ...Object.values(extra)]));
  }

  /** @param {HTMLElement} bar */
  get(bar) {
    return valueOf(this.tracks, bar);
  }

  /** @param {HTMLElement} bar @param {number} value @param {boolean} final */
  set(bar, value, final) {
    this.change((weights, track) => (track === Number(bar.dataset.track) ? withValue(weights, bar.dataset.key ?? "", value) : weights), final);
  }

  /** @param {Map<HTMLElement, number>} values */
  paintValues(values) {
    this.change((weights, track) => {
      let painted = weights;
      for (const [bar, value] of values) if (Number(bar.dataset.track) === track) painted = withValue(painted, bar.dataset.key ?? "", value);
      return painted;
    }, false);
  }

  /** Move a bar and those around it: all of its level by the same amount, or its neighbours less and less. @param {HTMLElement} bar @param {number} value @param {import("./gestures.mjs").Tool} tool */
  pull(bar, value, tool) {
    this.hold();
    const { blocks } = LAYOUTS[this.layout];
    const key = bar.dataset.key ?? "";
    const index = blocks.indexOf(key);
    if (index < 0 || !this.held) return this.set(bar, value, false);
    const before = this.held.tracks;
    const { low, high } = this.scale();
    this.change((weights, track) => {
      if (track !== Number(bar.dataset.track)) return weights;
      const { values } = before[track];
      const level = levelOf(LAYOUTS[this.layout], key).map((block) => blocks.indexOf(block));
      const moved = tool === "level" ? together(values, level, "add", value - values[index])
        : brushed(values, index, value, Math.max(1, blocks.length * BRUSH_SHARE));
      return moved.reduce((changed, number, i) => (
        number === values[i] || before[track].unknown?.[blocks[i]] !== undefined ? changed : withValue(changed, blocks[i], Math.min(high, Math.max(low, number)))
      ), before[track]);
    }, false);
  }

  hold() {
    this.held ??= { text: this.text, tracks: this.tracks };
  }

  /** Escape in a drag: back to what was there before it. */
  cancel() {
    if (this.held) this.write(this.held.text);
  }

  /** Every change leaves the deck here. @param {string} text @param {boolean} [final] whether the gesture ends here */
  write(text, final = true) {
    this.hold();
    this.host.write(text, final);
    if (final) this.held = null;
  }

  /**
   * Write the text of changed weights.
   * @param {(weights: Weights, track: number) => Weights} how
   * @param {boolean} [final] whether the gesture ends here
   */
  change(how, final = true) {
    const text = this.tracks.map(how).map(this.format).join(PAIR_SEPARATOR);
    if (this.host.shaping?.()) {
      this.held = { text: this.tracks.map(format).join(PAIR_SEPARATOR), tracks: this.tracks };
      this.host.bake?.();
    }
    this.write(text, final);
  }

  /**
   * Change the whole list; `one` is what that does to a number for everything, which else becomes a list.
   * @param {(values: number[], track: number) => number[]} how @param {boolean} [final] @param {(value: number) => number} [one]
   */
  reshape(how, final = true, one) {
    const changed = this.tracks.map((weights, track) => reshaped(weights, (values) => how(values, track), one));
    if (changed.includes(null)) this.face.say(this.host.words("atRunTime"));
    else this.change((_, track) => /** @type {Weights} */ (changed[track]), final);
  }

  /** A preset's weights; on a pair M_A gets what is left of 1. @param {number[]} values @param {boolean} [final] */
  apply(values, final = true) {
    this.reshape((_, track) => (this.count > 1 && track === 0 ? invert(values) : values), final);
  }

  /** Set, add to or multiply a group on the last track. @param {string[]} group @param {"set" | "add" | "multiply"} how @param {number} by */
  changeGroup(group, how, by) {
    const indices = group.map((block) => LAYOUTS[this.layout].blocks.indexOf(block));
    this.reshape((values, track) => (track === this.count - 1 ? together(values, indices, how, by) : values));
  }

  /** One block alone, all others back to model A; a second time the text from before. @param {string} key */
  solo(key) {
    const index = LAYOUTS[this.layout].blocks.indexOf(key);
    if (index < 0) return;
    const { soloed } = this;
    if (soloed?.index === index && soloed.text === this.text) {
      this.write(soloed.before);
      return;
    }
    const before = soloed?.text === this.text ? soloed.before : this.text;
    if (soloed?.text === this.text) this.tracks = this.shape(this.read(before));
    if (this.tracks.some(({ unknown }) => unknown?.[key] !== undefined)) {
      this.face.say(this.host.words("atRunTime"));
      return;
    }
    this.change((weights, track) => ({
      ...known(weights), values: weights.values.map((value, i) => (i === index ? value : this.rest(track))), named: [key], rest: null,
    }));
    this.soloed = { text: this.text, before, index };
    this.face.paint();
  }

  /** Switch a bar off and remember its number; a second time bring the number back. @param {HTMLElement} bar */
  mute(bar) {
    const track = Number(bar.dataset.track);
    const name = `${track}/${bar.dataset.key}`;
    const muted = { ...this.host.muted?.() };
    const value = this.get(bar);
    const wake = this.isMuted(bar) ? muted[name] : undefined;
    if (wake !== undefined) delete muted[name];
    else if (value === this.rest(track)) return;
    else muted[name] = value;
    this.hold();
    this.host.muted?.(muted);
    this.set(bar, wake ?? this.rest(track), true);
    this.face.paint();
  }

  /** @param {HTMLElement} bar */
  isMuted(bar) {
    const track = Number(bar.dataset.track);
    return `${track}/${bar.dataset.key}` in (this.host.muted?.() ?? {}) && this.get(bar) === this.rest(track);
  }

  /** Name of the preset the weights are, the user's own first; empty for none. */
  presetName() {
    const { values, unknown } = this.tracks[this.count - 1];
    if (this.kind === "strength" && !this.error && isLoraPreset(this.text, this.layout)) return this.text.trim();
    if (Object.keys(unknown ?? {}).length) return "";
    if (this.count > 1 && !same(this.tracks[0].values, invert(values))) return "";
    const known = { ...builtIn(this.layout), ...this.host.presets.values() };
    return Object.keys(known).reverse().find((name) => same(known[name], values)) ?? "";
  }

  invert() {
    if (this.count === 1) this.reshape((values) => invert(values), true, (value) => invert([value])[0]);
    else this.change((_, track) => this.tracks[1 - track]);
  }

  /** @param {string} to */
  relayout(to) {
    const from = this.layout;
    this.host.layout(to);
    if (to === from) return;
    if (this.tracks.some(({ unknown }) => Object.keys(unknown ?? {}).length)) {
      this.face.say(this.host.words("atRunTime"));
      return;
    }
    const named = builtIn(to)[this.presetName()];
    this.change(({ values, extra, named: given, rest }, track) => {
      if (rest !== null) return { layout: to, values: LAYOUTS[to].blocks.map(() => rest), extra, named: null, rest };
      const share = named && (this.count > 1 && track === 0 ? invert(named) : named);
      const kept = given && LAYOUTS[to].blocks.filter((block) => given.includes(block));
      return { layout: to, values: share ?? relayout(values, from, to, this.rest(track)), extra, named: share ? null : kept, rest: null };
    });
  }

  /** Take a name outside the stacks into the list, or out of it. @param {string} key */
  toggleApart(key) {
    this.change((weights, track) => {
      const extra = { ...weights.extra };
      if (key in extra && !weights.source) delete extra[key];
      else return withValue(weights, key, this.rest(track));
      return { ...weights, extra };
    });
  }
}

/** @param {Weights[]} tracks @param {HTMLElement} bar */
function valueOf(tracks, bar) {
  const { layout, values, extra } = tracks[Number(bar.dataset.track)];
  const key = bar.dataset.key ?? "";
  return key in extra ? extra[key] : values[LAYOUTS[layout].blocks.indexOf(key)];
}
