// @ts-check
/**
 * The block deck: one bar per block, standing in the shape of the U-Net. The text is the one truth; everything
 * is painted from it, and every change goes out as a new text.
 */

import { LAYOUTS } from "./blocks.mjs";
import { attach } from "./gestures.mjs";
import { PRESETS } from "./presets.mjs";
import { invert, range, relayout, same, solo } from "./shaping.mjs";
import { WeightsError, format, parse } from "./weights.mjs";
import { WeightsFace } from "./weights_face.mjs";

const PAIR_SEPARATOR = " | ";

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
    this.face = new WeightsFace(this);
    this.element = this.face.element;
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
    this.face.paint();
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
    this.face.paint();
  }

  /** Name of the preset the weights are, the user's own first; empty for none. */
  presetName() {
    const values = this.tracks[this.count - 1].values;
    if (this.count > 1 && !same(this.tracks[0].values, invert(values))) return "";
    const known = { ...PRESETS[this.layout], ...this.host.own() };
    return Object.keys(known).reverse().find((name) => same(known[name], values)) ?? "";
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
}
