import assert from "node:assert/strict";
import { test } from "node:test";

import { conversionOf } from "../../web/convert/convert.mjs";
import { words } from "../../web/deck/messages.mjs";

const merge = (type, widgets) => conversionOf({ type, widgets, linked: { model1: "1/0", model2: "2/0" } });
const SD1 = Object.fromEntries([
  "time_embed.", "label_emb.", ...Array.from({ length: 12 }, (_, n) => `input_blocks.${n}.`),
  "middle_block.0.", "middle_block.1.", "middle_block.2.", ...Array.from({ length: 12 }, (_, n) => `output_blocks.${n}.`), "out.",
].map((name) => [name, 1]));

test("one number where all sliders are the same", () => {
  const { nodes, notes } = merge("ModelMergeSD1", Object.fromEntries(Object.keys(SD1).map((name) => [name, 0.7])));
  assert.deepEqual(nodes[0].widgets, { weights: "0.3", key_map: "comfy", elemental: "" });
  assert.deepEqual(nodes[0].links, { model_a: "model1", model_b: "model2" });
  assert.deepEqual(notes, []);
});

test("sliders are shares of the first model, and what has none follows the first slider", () => {
  const given = { ...SD1, "input_blocks.4.": 0.25, "input_blocks.5.": 0.25, "middle_block.1.": 0.5, "out.": 0 };
  const [{ widgets }] = merge("ModelMergeSD1", given).nodes;
  assert.equal(widgets.weights, "BASE=0, IN00-IN03=0, IN04-IN05=0.75, IN06-IN11=0, M00=0, OUT00-OUT11=0, OUT=1");
  assert.equal(widgets.elemental, "M00:middle_block.1.:0.5");
});

test("stacks of transformers", () => {
  const flux = { "img_in.": 1, "txt_in.": 0.5, "double_blocks.0.": 0, "double_blocks.1.": 0, "single_blocks.0.": 0.25 };
  const { nodes, notes } = merge("ModelMergeFlux1", flux);
  assert.equal(nodes[0].widgets.weights, "BASE=0, TXT_IN=0.5, D00-D01=1, S00=0.75");
  assert.deepEqual(notes, [["mergeFirst", "img_in", "0"]]);
  assert.equal(merge("ModelMergeCosmos7B", { "pos_embedder.": 1, "blocks.block3.": 0 }).nodes[0].widgets.weights, "BASE=0, B03=1");
});

test("other merges", () => {
  assert.equal(merge("ModelMergeSimple", { ratio: 0.3 }).nodes[0].widgets.weights, "0.7");
  assert.equal(merge("CLIPMergeSimple", { ratio: 0.3 }).nodes[0].widgets.ratio, 0.7);
  assert.equal(merge("ModelMergeOfAnotherPack", { "quux.0.": 1 }), null);
});

test("merges by input, middle and out", () => {
  const { nodes, notes } = merge("ModelMergeBlocks", { input: 0.75, middle: 0.75, out: 0 });
  assert.deepEqual(nodes[0].widgets, { weights: "0.25", elemental: ":diffusion_model.out:1" });
  assert.deepEqual(notes, [["mergeParts", "0.25"]]);
  assert.deepEqual(merge("ModelMergeBlocks", { input: 1, middle: 1, out: 1 }).nodes[0].widgets, { weights: "0", elemental: "" });
});

test("sums and differences", () => {
  const two = (type, widgets, sources) => conversionOf({ type, widgets, linked: {}, sources });
  assert.equal(merge("ModelMergeSubtract", { multiplier: 0.5 }).nodes[0].widgets.weights, "0.5 | -0.5");
  assert.deepEqual(two("ModelMergeAdd", {}, { model1: { type: "UNETLoader", widgets: {} } }).nodes, [
    { type: "BlockworkMergeTwoRatios", widgets: { weights: "1 | 1" }, links: { model_a: "model1", model_b: "model2" } },
  ]);
  assert.deepEqual(two("ModelMergeAdd", {}, { model2: { type: "ModelMergeSubtract", widgets: { multiplier: 0.5 } } }).nodes, [
    { type: "BlockworkAddDifference", widgets: { weights: "0.5" }, links: { model_a: "model1", model_b: "model2/model1", model_c: "model2/model2" } },
  ]);
});

test("a LoRA that is made by one node and applied by another", () => {
  const made = { type: "MakeLBW //Inspire", widgets: { lora_name: "a.safetensors", inverse: false, seed: 3, A: 4, B: 1, preset: "x", block_vector: "1,R,0", bypass: false } };
  const old = { type: "ApplyLBW //Inspire", widgets: { strength_model: 0.8, strength_clip: 0.5 }, linked: {} };
  const { nodes, outputs, notes } = conversionOf({ ...old, sources: { lbw_model: made } });
  assert.deepEqual(nodes[0].widgets, { lora_name: "a.safetensors", strength_model: 0.8, strength_clip: 0.5, seed: 3, a: 4, b: 1, weights: "1,R,0" });
  assert.deepEqual([nodes[0].links, outputs], [{ model: "model", clip: "clip" }, [0, 1]]);
  assert.deepEqual(notes.map(([key]) => key), ["loraBlocks", "loraRandom"]);
  assert.equal(conversionOf({ ...old, sources: { lbw_model: { type: "LoadLBW //Inspire", widgets: {} } } }), null);
});

test("a LoRA by block", () => {
  const widgets = { lora_name: "a.safetensors", strength_model: 0.8, strength_clip: 0.5, inverse: true, seed: 3, A: 4, B: 1, preset: "x", block_vector: "MINE:1,0,0.5", bypass: false };
  const { nodes, outputs, notes } = conversionOf({ type: "LoraLoaderBlockWeight //Inspire", widgets, linked: {} });
  assert.deepEqual(nodes[0].widgets, { lora_name: "a.safetensors", strength_model: 0.8, strength_clip: 0.5, seed: 3, a: 4, b: 1, weights: "0,1,0.5" });
  assert.deepEqual([outputs, notes], [[0, 1, null], [["loraBlocks"]]]);
  const keys = (block_vector, inverse = false) => conversionOf({ type: "LoraLoaderBlockWeight //Inspire", widgets: { ...widgets, block_vector, inverse }, linked: {} }).notes.map(([key]) => key);
  assert.deepEqual(keys("1,R,0"), ["loraBlocks", "loraRandom"]);
  assert.deepEqual(keys("1,R,0", true), ["loraBlocks", "loraRandom", "loraInverse"]);
  assert.deepEqual(keys("%default=1,in1=0"), ["loraBlocks", "loraVector"]);
  assert.deepEqual(keys("1,0.5 0.2,1"), ["loraBlocks", "loraVector"]);
});

test("injections, one node per prompt", () => {
  const widgets = { weight: 1, start_at: 0.1, end_at: 0.9, noise: 0.5 };
  const { nodes, notes } = conversionOf({ type: "PromptInjection", widgets, linked: { model: "1/0", all: "5/0", input_4: "6/0", output_1: "6/0" } });
  assert.deepEqual(nodes.map(({ widgets: { blocks } }) => blocks), ["all", "input:4, output:1"]);
  assert.deepEqual(nodes.map(({ links }) => links), [{ prompt: "all", model: "model" }, { prompt: "input_4" }]);
  assert.equal(nodes[1].widgets.start_percent, 0.1);
  assert.deepEqual(notes.map(([key]) => key), ["injectPositive", "lost", "injectSeveral"]);
  const lines = conversionOf({ type: "AdvancedPromptInjection", widgets: { locations: "output:0,1.0\noutput:1, 0.5\n", start_at: 0, end_at: 1 }, linked: { conditioning: "2/0" } });
  assert.equal(lines.nodes[0].widgets.blocks, "output:0, output:1=0.5");
  const one = conversionOf({ type: "SimplePromptInjection", widgets: { block: "middle:0", weight: 2 }, linked: { conditioning: "2/0" } });
  assert.deepEqual([one.nodes[0].widgets.blocks, one.notes.map(([key]) => key)], ["middle:0", ["injectPositive", "injectWeight"]]);
  assert.equal(conversionOf({ type: "PromptInjectionIdx", widgets, linked: { idx_3: "2/0" } }).nodes[0].widgets.blocks, "idx:3");
  assert.equal(conversionOf({ type: "PromptInjection", widgets, linked: { model: "1/0" } }), null);
});

test("dynamic thresholding, with what it has no counterpart for", () => {
  const widgets = { mimic_scale: 7, threshold_percentile: 0.99, mimic_mode: "Cosine Up", cfg_mode: "Constant", separate_feature_channels: "enable", variability_measure: "STD", interpolate_phi: 0.7 };
  const { nodes, notes } = conversionOf({ type: "DynamicThresholdingFull", widgets, linked: {} });
  assert.deepEqual(nodes[0].widgets, { mode: "dynamic", percentile: 0.99, cap: 0, bound: "conditional", per_channel: true, blend: 0.7 });
  assert.deepEqual(notes.map(([key]) => key), ["mimicScale", "lost", "lost"]);
  for (const locale of ["en", "ja"]) for (const [key] of notes) assert.notEqual(words(locale)(key), key);
});

test("other nodes have no conversion", () => {
  assert.equal(conversionOf({ type: "KSampler", widgets: { seed: 1 }, linked: {} }), null);
});
