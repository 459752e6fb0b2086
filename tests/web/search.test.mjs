import assert from "node:assert/strict";
import { test } from "node:test";

import { asSweep, choiceOf, marksOf, textOf, toggled } from "../../web/search/choice.mjs";
import { deckFor } from "../../web/search/target.mjs";

const deck = (id, comfyClass, link = null) => ({
  id, comfyClass, widgets: [{ name: "key_map", type: "combo" }, { name: "weights", type: "BLOCKWORK_WEIGHTS" }],
  inputs: [{ name: "weights", link }],
});
const merge = deck(1, "BlockworkMergeModels"), linked = deck(2, "BlockworkMergeModels", 7), given = deck(3, "BlockworkBlockWeights");
const none = () => false;

test("a selected deck comes first, then Block Weights, then the only one", () => {
  assert.equal(deckFor([merge, given, { id: 9 }], (node) => node.id === 1)?.node, merge);
  assert.equal(deckFor([merge, given], none)?.node, given);
  assert.equal(deckFor([linked, merge], none)?.node, merge);
  assert.equal(deckFor([merge], none)?.widget.name, "weights");
});

test("no deck, or several that are alike, is no answer", () => {
  assert.equal(deckFor([], none), null);
  assert.equal(deckFor([linked], none), null);
  assert.equal(deckFor([merge, deck(4, "BlockworkAddDifference")], none), null);
});

test("marks on images become a ranking, and the ranking marks them again", () => {
  const none_ = { preferred: [], rejected: [] };
  let marks = none_;
  for (const [number, how] of [[12, "preferred"], [10, "preferred"], [11, "rejected"], [13, "rejected"], [13, "rejected"]]) marks = toggled(marks, number, how);
  assert.equal(textOf(2, marks), "generation 2: prefer 12, 10; reject 11");
  assert.deepEqual(marksOf(textOf(2, marks), 2), marks);
  assert.deepEqual(marksOf("Generation 2 : reject 4 5; prefer 1,2", 2), { preferred: [1, 2], rejected: [4, 5] });
  assert.deepEqual(marksOf(textOf(2, marks), 3), none_, "of another generation");
  assert.equal(textOf(2, toggled(marks, 12, "rejected")), "generation 2: prefer 10; reject 11, 12");
  assert.equal(textOf(2, none_), "");
});

test("candidates are compared with the best one, where there is one", () => {
  const cell = (number, best) => ({ number, weights: `IN00=0.${number}`, best, file: { filename: "x", subfolder: "", type: "temp" } });
  const sweep = asSweep({ generation: 2, cells: [cell(1, true), cell(3, false), cell(4, false)] }, (n) => `Trial ${n}`, 2);
  assert.deepEqual([sweep.alone, sweep.cells.map(({ block }) => block), sweep.cells[2].place], [false, [null, "Trial 3", "Trial 4"], [0, 1]]);
  assert.equal(asSweep({ generation: 1, cells: [cell(1, false)] }, String, 1).alone, true);
  assert.equal(choiceOf({}), null);
});
