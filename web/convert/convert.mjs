// @ts-check
/**
 * What a node of ComfyUI or of another pack is in nodes of this pack: settings, links, and what differs. No page needed.
 */

import { NAMED } from "../deck/layouts.mjs";

/**
 * @typedef {{type: string, widgets: Record<string, any>, links: Record<string, string>}} Made a node: its settings, and its inputs by the input of the old node whose link they take (`x/y`: input `y` of the node that input `x` is linked to)
 * @typedef {object} Conversion
 * @property {Made[]} nodes a chain: the first output of each goes to the input `model` of the next
 * @property {(number | null)[]} outputs by output of the old node: that of the last new node, or null
 * @property {string[][]} notes what differs: the key of a sentence, and what goes into it
 * @property {string} [absorbed] the input whose node the new ones replace as well
 */

/**
 * @typedef {object} Old a node as it is on the canvas
 * @property {string} type
 * @property {Record<string, any>} widgets values by name
 * @property {Record<string, string>} linked by name of the linked input, what it is linked to
 * @property {Record<string, {type: string, widgets: Record<string, any>}>} [sources] by name of the linked input, the node it is linked to
 */

const INJECT = "BlockworkInjectIntoModel";
/** Letters of stacks by the title that slider names of ComfyUI's merge nodes begin with. @type {Record<string, string>} */
const LETTERS = {
  double_layers: "D", single_layers: "S", blocks: "B",
  ...Object.fromEntries(Object.values(NAMED).flatMap(([stacks]) => stacks.map(([letter, title]) => [title, letter]))),
};

/** The conversion of a node, or null where there is none. @param {Old} old @returns {Conversion | null} */
export function conversionOf(old) {
  const make = MAKERS[old.type] ?? (/^ModelMerge[A-Z]/.test(old.type) ? mergeBySliders : null);
  return make?.(old) ?? null;
}

/** @type {Record<string, (old: Old) => Conversion | null>} */
const MAKERS = {
  ModelMergeSimple: ({ widgets }) => merged("BlockworkMergeModels", { weights: text(1 - widgets.ratio) }, { model_a: "model1", model_b: "model2" }),
  CLIPMergeSimple: ({ widgets }) => merged("BlockworkMergeCLIP", { ratio: tidy(1 - widgets.ratio) }, { clip_a: "clip1", clip_b: "clip2" }),
  ModelMergeBlocks: mergeByPart,
  ModelMergeAdd: add,
  ModelMergeSubtract: ({ widgets: { multiplier } }) => merged("BlockworkMergeTwoRatios", { weights: `${text(multiplier)} | ${text(-multiplier)}` }, { model_a: "model1", model_b: "model2" }),
  "LoraLoaderBlockWeight //Inspire": loraByBlock,
  "ApplyLBW //Inspire": madeLora,
  PromptInjection: (old) => injections(old, (name) => name.replace("_", ":")),
  PromptInjectionIdx: (old) => injections(old, (name) => name.replace("_", ":")),
  SimplePromptInjection: (old) => injected(old, [{ blocks: String(old.widgets.block), from: "conditioning" }]),
  AdvancedPromptInjection: advanced,
  DynamicThresholdingFull: threshold,
  DynamicThresholdingSimple: threshold,
};

/** @param {string} type @param {Record<string, any>} widgets @param {Record<string, string>} links @param {string[][]} [notes] */
function merged(type, widgets, links, notes = []) {
  return { nodes: [{ type, widgets, links }], outputs: [0], notes };
}

/**
 * Input, middle and out: the beginning of a layer's name decides, and layers of other names follow input. One number
 * and lines for single layers say the same for models of any number of blocks. @param {Old} old
 */
function mergeByPart({ widgets }) {
  const { input, middle, out } = widgets;
  const lines = Object.entries({ middle, out }).filter(([, share]) => share !== input);
  const elemental = lines.map(([part, share]) => `:diffusion_model.${part}:${text(1 - share)}`).join("\n");
  const notes = lines.length ? [["mergeParts", text(1 - input)]] : [];
  return merged("BlockworkMergeModels", { weights: text(1 - input), elemental }, { model_a: "model1", model_b: "model2" }, notes);
}

/** A sum, and where one side is a difference of two models, A + (B - C) in one node. @param {Old} old */
function add({ sources = {} }) {
  const side = ["model2", "model1"].find((name) => sources[name]?.type === "ModelMergeSubtract");
  if (!side) return merged("BlockworkMergeTwoRatios", { weights: "1 | 1" }, { model_a: "model1", model_b: "model2" });
  const links = { model_a: side === "model2" ? "model1" : "model2", model_b: `${side}/model1`, model_c: `${side}/model2` };
  return { ...merged("BlockworkAddDifference", { weights: text(sources[side].widgets.multiplier) }, links, [["mergeDifference"]]), absorbed: side };
}

/** A LoRA that one node made and this one applies. @param {Old} old */
function madeLora({ widgets, sources = {} }) {
  const made = sources.lbw_model;
  if (made?.type !== "MakeLBW //Inspire") return null; // a file of Save LoRA Block Weight
  return { ...loraByBlock({ type: "", widgets: { ...made.widgets, ...widgets }, linked: {} }), outputs: [0, 1], absorbed: "lbw_model" };
}

/** ComfyUI's merge nodes for one architecture: a slider is the share of the first model. @param {Old} old */
function mergeBySliders({ widgets }) {
  const sliders = Object.entries(widgets).filter(([, value]) => typeof value === "number");
  if (!sliders.length) return null;
  const [, first] = sliders[0];
  /** @type {[string, number][]} */
  const items = [];
  /** @type {string[]} */
  const parts = [];
  for (const [name, value] of sliders) {
    const plain = name.replace(/\.$/, "");
    const numbered = /^(.+?)\.(?:block)?(\d+)$/.exec(plain);
    const share = tidy(1 - value);
    if (numbered?.[1] === "middle_block") {
      if (numbered[2] === "0") items.push(["M00", share]);
      else if (items.at(-1)?.[1] !== share) parts.push(`M00:${plain}.:${text(share)}`);
    } else if (numbered) {
      const letter = LETTERS[numbered[1]];
      if (!letter) return null;
      items.push([letter + numbered[2].padStart(2, "0"), share]);
    } else if (value !== first) {
      items.push([plain.split(".")[0].toUpperCase().replace(/[^A-Z0-9_]/g, "_"), share]);
    }
  }
  if (!items.some(([name]) => /\d$/.test(name))) return null;
  const rest = tidy(1 - first);
  const whole = items.every(([, share]) => share === rest) && !parts.length;
  const weights = whole ? text(rest) : [`BASE=${text(rest)}`, ...ranges(items)].join(", ");
  const notes = whole ? [] : [["mergeFirst", sliders[0][0].replace(/\.$/, ""), text(rest)]];
  return merged("BlockworkMergeModels", { weights, key_map: "comfy", elemental: parts.join("\n") }, { model_a: "model1", model_b: "model2" }, notes);
}

/** Neighbours of the same weight as ranges. @param {[string, number][]} items */
function ranges(items) {
  const found = [];
  for (let start = 0; start < items.length; ) {
    const letter = items[start][0].replace(/\d+$/, "");
    let end = start;
    const joins = (/** @type {[string, number]} */ next) => /\d$/.test(items[start][0]) && next[0].replace(/\d+$/, "") === letter && next[1] === items[start][1];
    while (end + 1 < items.length && joins(items[end + 1])) end += 1;
    found.push(`${end > start ? `${items[start][0]}-${items[end][0]}` : items[start][0]}=${text(items[start][1])}`);
    start = end + 1;
  }
  return found;
}

/** @param {Old} old @returns {Conversion} */
function loraByBlock({ widgets, linked }) {
  const { lora_name, strength_model, strength_clip, seed, A, B, inverse, bypass } = widgets;
  const notes = [["loraBlocks"]];
  let weights = String(widgets.block_vector ?? "").trim();
  if (weights.startsWith("%") || /\d\s+[\d.RUAB]/i.test(weights)) {
    notes.push(["loraVector", weights]);
    weights = "1";
  } else if (/(^|[,:])\s*[RU]\s*(,|$)/.test(weights)) notes.push(["loraRandom"]);
  if (inverse) {
    const [label, list] = weights.includes(":") ? weights.split(":", 2) : ["", weights];
    const numbers = list.split(",").map((item) => (item.trim() === "" ? NaN : Number(item)));
    if (numbers.every(Number.isFinite)) weights = numbers.map((number) => text(1 - number)).join(",");
    else notes.push(["loraInverse", label || list]);
  }
  const on = bypass ? 0 : 1;
  if (linked.category_filter) notes.push(["lost", "category_filter"]);
  return {
    nodes: [{
      type: "BlockworkLoadLoRA", links: { model: "model", clip: "clip" },
      widgets: { lora_name, strength_model: on * strength_model, strength_clip: on * strength_clip, seed, a: A, b: B, weights },
    }],
    outputs: [0, 1, null], notes,
  };
}

/** One node per prompt, for the blocks whose socket it is linked to. @param {Old} old @param {(name: string) => string} block */
function injections(old, block) {
  /** @type {Map<string, {blocks: string[], from: string}>} */
  const found = new Map();
  const sockets = Object.keys(old.linked).filter((name) => /^(input|middle|output|idx)_\d+$/.test(name));
  for (const name of sockets) {
    const known = found.get(old.linked[name]) ?? { blocks: [], from: name };
    known.blocks.push(block(name));
    found.set(old.linked[name], known);
  }
  /** @type {{blocks: string, from: string}[]} */
  const parts = [...found.values()].map(({ blocks, from }) => ({ blocks: blocks.join(", "), from }));
  if (old.linked.all) parts.unshift({ blocks: "all", from: "all" }); // the others come later, and take precedence
  return injected(old, parts);
}

/** @param {Old} old @returns {Conversion | null} */
function advanced(old) {
  const lines = String(old.widgets.locations ?? "").split("\n").map((line) => line.trim()).filter(Boolean);
  const blocks = lines.map((line) => {
    const [name, weight] = line.split(",").map((part) => part.trim());
    return weight && Number(weight) !== 1 ? `${name}=${weight}` : name;
  });
  return injected(old, [{ blocks: blocks.join(", "), from: "conditioning" }]);
}

/** @param {Old} old @param {{blocks: string, from: string}[]} parts @returns {Conversion | null} */
function injected({ widgets, linked }, parts) {
  const { weight = 1, start_at = 0, end_at = 1, noise = 0 } = widgets;
  const there = parts.filter(({ blocks, from }) => blocks && linked[from]);
  if (!there.length) return null;
  const notes = [["injectPositive"]];
  if (weight !== 1 || there.some(({ blocks }) => blocks.includes("="))) notes.push(["injectWeight"]);
  if (noise) notes.push(["lost", "noise"]);
  if (there.length > 1) notes.push(["injectSeveral", String(there.length)]);
  return {
    nodes: there.map(({ blocks, from }, place) => ({
      type: INJECT, links: { prompt: from, ...(place ? {} : { model: "model" }) },
      widgets: { name: "positive", mode: "replace", weight, start_percent: start_at, end_percent: end_at, blocks },
    })),
    outputs: [0], notes,
  };
}

/** @param {Old} old @returns {Conversion} */
function threshold({ widgets }) {
  const { threshold_percentile, mimic_scale, separate_feature_channels, interpolate_phi = 1, variability_measure } = widgets;
  const notes = [["mimicScale", String(mimic_scale)]];
  const schedules = ["mimic_mode", "cfg_mode"].filter((name) => widgets[name] && widgets[name] !== "Constant");
  for (const name of schedules) notes.push(["lost", `${name} ${widgets[name]}`]);
  if (variability_measure && variability_measure !== "AD") notes.push(["lost", `variability_measure ${variability_measure}`]);
  return merged("BlockworkThreshold", {
    mode: "dynamic", percentile: threshold_percentile, cap: 0, bound: "conditional",
    per_channel: separate_feature_channels === "enable", blend: interpolate_phi,
  }, { model: "model" }, notes);
}

/** @param {number} value */
function tidy(value) {
  return Number(value.toFixed(6)) + 0;
}

/** @param {number} value */
function text(value) {
  return String(tidy(value));
}
