import assert from "node:assert/strict";
import { test } from "node:test";

import { linkedText, modelFile, shapingOf } from "../../web/deck/graph.mjs";
import { ModelLayout } from "../../web/deck/model_layout.mjs";
import { LAYOUTS } from "../../web/deck/blocks.mjs";

/** A graph of nodes `{id, inputs: {name: [sourceId, slot]}, widgets: {name: value}}`. */
function graphOf(described) {
  const links = {};
  const graph = { links, getNodeById: (id) => nodes[id] };
  const nodes = {};
  for (const [id, { type, title, inputs = {}, widgets = {}, types = {}, output }] of Object.entries(described)) {
    nodes[id] = { id, type, comfyClass: type, title: title ?? type, graph, inputs: [], outputs: [{ links: [] }], widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })) };
    if (output !== undefined) nodes[id].widgets.push({ name: "weights", output: () => output });
    for (const [name, from] of Object.entries(inputs)) {
      const key = Object.keys(links).length + 1;
      if (from) links[key] = { origin_id: from, origin_slot: 0, target_id: id };
      nodes[id].inputs.push({ name, type: types[name] ?? "MODEL", link: from ? key : null });
      if (from) nodes[from].outputs[0].links.push(key);
    }
  }
  return nodes;
}

test("the model's file is found upstream, through LoRAs and reroutes", () => {
  const nodes = graphOf({
    1: { type: "UNETLoader", widgets: { unet_name: "flux.safetensors" } },
    2: { type: "LoraLoaderModelOnly", inputs: { model: "1" }, widgets: { lora_name: "x" } },
    3: { type: "Reroute", inputs: { "": "2" } },
    4: { type: "BlockworkMergeModels", inputs: { model_a: "3", model_b: null } },
    5: { type: "BlockworkBlockWeights" },
    6: { type: "BlockworkMergeModels", inputs: { weights: "5", model_a: "2" }, types: { weights: "STRING" } },
    7: { type: "BlockworkMergeToFile", widgets: { model_a: "sd15.safetensors", model_b: "other" } },
    8: { type: "BlockworkScaleBlocks", inputs: { model: null } },
  });
  const flux = { folder: "diffusion_models", name: "flux.safetensors" };
  assert.deepEqual([modelFile(nodes[4]), modelFile(nodes[5]), modelFile(nodes[6])], [flux, flux, flux]);
  assert.deepEqual(modelFile(nodes[7]), { folder: "checkpoints", name: "sd15.safetensors" });
  assert.equal(modelFile(nodes[8]), null);
});

test("a linked text: constants, decks, and what ran", () => {
  const nodes = graphOf({
    1: { type: "PrimitiveString", title: "Text", widgets: { value: "GRAD_A" } },
    2: { type: "SomeText", title: "Maker", widgets: { text: "GRAD_A" } },
    3: { type: "BlockworkBlockWeights", title: "Block Weights", output: "0.5" },
    4: { type: "X", inputs: { weights: "1" } },
    5: { type: "X", inputs: { weights: "2" } },
    6: { type: "X", inputs: { weights: "3" } },
    7: { type: "X", inputs: { weights: null } },
  });
  assert.deepEqual(linkedText(nodes[4], "weights"), { text: "GRAD_A", from: "Text", ran: false });
  assert.deepEqual(linkedText(nodes[5], "weights"), { text: null, from: "Maker", ran: false }, "nobody knows what a node makes of its text");
  assert.deepEqual(linkedText(nodes[5], "weights", "1"), { text: "1", from: "Maker", ran: true });
  assert.deepEqual(linkedText(nodes[6], "weights", "1"), { text: "0.5", from: "Block Weights", ran: false });
  assert.equal(linkedText(nodes[7], "weights"), null);
});

test("shaping that changes nothing is none", () => {
  const widgets = { blend_with: "GRAD_V", blend: 0, mirror: false, invert: false, scale: 1, offset: 0 };
  const nodes = graphOf({ 1: { type: "BlockworkBlockWeights", widgets }, 2: { type: "BlockworkBlockWeights", widgets: { ...widgets, mirror: true } }, 3: { type: "X", widgets: { mirror: true } } });
  assert.equal(shapingOf(nodes[1]), null);
  assert.equal(shapingOf(nodes[2])?.mirror, true);
  assert.equal(shapingOf(nodes[3]), null);
});

test("the layout of the last chosen file counts, whichever answer comes first", async () => {
  const waiting = {};
  const model = new ModelLayout((path) => new Promise((done) => (waiting[path] = done)), () => changes++);
  let changes = 0;
  const answer = (letter) => ({ ok: true, json: async () => ({ layout: { name: `test ${letter}`, stacks: [{ letter, title: letter, blocks: [`${letter}00`, `${letter}01`] }], apart: ["BASE"], facts: { [`${letter}00`]: { tensors: 2, share: 0.5 } } } }) });
  const first = model.follow({ folder: "checkpoints", name: "a" });
  const second = model.follow({ folder: "checkpoints", name: "b" });
  const [a, b] = Object.values(waiting);
  b(answer("Y"));
  a(answer("X"));
  await Promise.all([first, second]);
  assert.deepEqual(LAYOUTS[model.id].blocks, ["Y00", "Y01"]);
  assert.equal(changes, 1);
  await model.follow(null);
  assert.deepEqual(LAYOUTS[model.id].blocks, ["Y00", "Y01"], "a cut link leaves the shape");
});
