import assert from "node:assert/strict";
import { test } from "node:test";

import { LAYOUTS, addLayout, blocksOf, extent, groupsOf, levelOf, place, span } from "../../web/deck/blocks.mjs";
import { describe } from "../../web/deck/facts.mjs";
import { KEYS, words } from "../../web/deck/messages.mjs";
import { format, parse } from "../../web/deck/weights.mjs";

const stack = (letter, count) => ({ letter, title: `${letter} blocks`, blocks: Array.from({ length: count }, (_, n) => letter + String(n).padStart(2, "0")) });
const layout = (name, ...counts) => LAYOUTS[addLayout({ name, stacks: counts.map(([letter, count]) => stack(letter, count)), apart: ["BASE", "IN", "TXT", "OUT"] })];

test("stacks become columns side by side that stay low", () => {
  for (const [name, counts] of Object.entries({ flux: [["D", 19], ["S", 38]], qwen: [["B", 60]], zimage: [["CR", 2], ["NR", 2], ["B", 30]], long: [["B", 120]], small: [["D", 5], ["S", 14]] })) {
    const found = layout(name, ...counts);
    const { rows, columns } = extent(found);
    assert.ok(columns <= 6 && rows <= 26, `${name}: ${rows} rows, ${columns} columns`);
    const taken = new Set(found.blocks.map((block) => { const { column, row } = place(found, block); return `${column} ${row}`; }));
    assert.equal(taken.size, found.blocks.length, `${name}: two blocks in one place`);
    assert.ok(found.blocks.every((block) => place(found, block).row > 0), "the title of a stack is above it");
  }
});

test("a layout that comes again keeps its key; another count is another layout", () => {
  assert.equal(layout("flux", ["D", 19], ["S", 38]).id, layout("flux", ["D", 19], ["S", 38]).id);
  assert.notEqual(layout("flux", ["D", 19], ["S", 38]).id, layout("flux", ["D", 8], ["S", 38]).id);
  assert.equal(addLayout({ name: "sdxl", stacks: LAYOUTS.sdxl.stacks, apart: LAYOUTS.sdxl.apart }), "sdxl");
  assert.equal(layout("flux", ["D", 19], ["S", 38]).id, "flux", "the names that a text can use are known");
});

test("weights of any layout are read and written", () => {
  const { id } = layout("flux", ["D", 19], ["S", 38]);
  const weights = parse("D00-D07=0.3, S20=0.25, IN=1", id);
  assert.deepEqual([weights.values[0], weights.values[7], weights.values[8], weights.values[39]], [0.3, 0.3, 0, 0.25]);
  assert.deepEqual(weights.extra, { IN: 1 });
  assert.deepEqual(parse(format(weights), id), weights);
  assert.equal(format(weights), "D00=0.3, D01=0.3, D02=0.3, D03=0.3, D04=0.3, D05=0.3, D06=0.3, D07=0.3, S20=0.25, IN=1", "what is not named stays so");
  const list = parse(Array(58).fill(0.5).join(","), id);
  assert.deepEqual(list.extra, { BASE: 0.5 });
  assert.ok(format(list).startsWith("flux: 0.5, 0.5"));
  assert.deepEqual(parse(Array(61).fill(0.25).join(","), id).extra, { CLIP: 0.25, T5: 0.25, IN: 0.25, OUT: 0.25 });
  assert.equal(format(parse("0.5, S03=1", id)), "0.5, S03=1", "one number for everything stays one number");
  assert.throws(() => parse("1, 2, 3", id), /57, or 58 with BASE first/);
  assert.deepEqual(span(LAYOUTS[id], "d3-D4"), ["D03", "D04"]);
  assert.deepEqual([...blocksOf(LAYOUTS[id], "double_3"), ...blocksOf(LAYOUTS[id], "S").slice(0, 1), ...blocksOf(LAYOUTS[id], "D00-01")], ["D03", "S00", "D00", "D01"]);
});

test("names of whole stacks, and ComfyUI's own names", () => {
  const id = addLayout({ name: "quux", stacks: [{ letter: "NR", title: "noise_refiner", blocks: ["NR00", "NR01"] }, { letter: "DN", title: "down_blocks", blocks: ["DN00", "DN01", "DN02"], levels: [1, 2] }] });
  const quux = LAYOUTS[id];
  assert.deepEqual(blocksOf(quux, "noise_refiner."), ["NR00", "NR01"]);
  assert.deepEqual(["down_blocks.1.1", "down_blocks.0.1", "down_blocks.1", "noise_refiner.1.", "noise_refiner.2", "layer_1"].map((name) => blocksOf(quux, name)), [["DN02"], null, null, ["NR01"], null, null]);
  const one = LAYOUTS[addLayout({ name: "one", stacks: [{ letter: "QUUX", title: "quux_blocks", blocks: ["QUUX00", "QUUX01"] }] })];
  assert.deepEqual([...blocksOf(one, "block_1"), ...blocksOf(LAYOUTS.sdxl, "middle_block"), ...blocksOf(LAYOUTS.sdxl, "output_blocks.3")], ["QUUX01", "M00", "OUT03"]);
  assert.deepEqual(blocksOf(LAYOUTS.sdxl, "OUT"), ["OUT"], "not the stack: the layers outside the blocks");
});

test("groups: stacks, thirds of a stack, levels of a U", () => {
  const flux = layout("flux", ["D", 19], ["S", 38]);
  assert.deepEqual(Object.keys(groupsOf(flux)), ["all", "D", "S", "D 1/3", "D 2/3", "D 3/3", "S 1/3", "S 2/3", "S 3/3"]);
  assert.equal(levelOf(flux, "D00").length, 7);
  assert.deepEqual(levelOf(LAYOUTS.sd1, "OUT04"), ["IN06", "IN07", "IN08", "OUT03", "OUT04", "OUT05"]);
  assert.deepEqual(levelOf(LAYOUTS.sdxl, "M00").length, 7);
});

test("a line about a block", () => {
  assert.equal(describe("sd1", "OUT05", words("en")), "OUT05: 1/4 resolution, 1 attention layer, 11 % of the parameters, 40 tensors");
  assert.equal(describe("sdxl", "IN08", words("en")), "IN08: 1/4 resolution, 10 attention layers, 15 % of the parameters, 216 tensors");
});

test("every message is there in every language, and each key once", () => {
  assert.deepEqual([...KEYS.ja].sort(), [...KEYS.en].sort());
});
