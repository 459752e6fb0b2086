import assert from "node:assert/strict";
import { test } from "node:test";

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
