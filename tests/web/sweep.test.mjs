import assert from "node:assert/strict";
import { test } from "node:test";

import { address, figure, heat, heatByBlock, measures, next, places, sweepOf } from "../../web/sweep/sweep.mjs";

const cell = (label, place, rms, cosine = []) => ({
  label, block: label.split(" ")[0] === "unmodified" ? null : label.split(" ")[0], place, rms, cosine,
  file: { filename: `${label}.jpg`, subfolder: "blockwork_sweep", type: "temp" },
});
const CELLS = [
  cell("unmodified", [1, 0], []),
  cell("IN00 = 0.5", [0, 0], [2, 4]),
  cell("IN00 = 0.75", [0, 0], [1, 1]),
  cell("IN01 = 0.5", [0, 1], [0, 0]),
  cell("M00 = 0.5", [1, 2], [12, 12]),
];

test("only a node's output with a sweep is one", () => {
  const sweep = { cells: CELLS, units: {} };
  assert.equal(sweepOf({ blockwork_sweep: [sweep] }), sweep);
  for (const output of [undefined, {}, { images: [] }, { blockwork_sweep: [] }, { blockwork_sweep: [{ cells: [CELLS[0]] }] }]) {
    assert.equal(sweepOf(output), null);
  }
});

test("heat is the share of the farthest, ranks count from it", () => {
  const found = heat(CELLS, "rms");
  assert.deepEqual(found.map(({ moved }) => moved), [0, 3, 1, 0, 12]);
  assert.deepEqual(found.map(({ share }) => share), [0, 0.25, 1 / 12, 0, 1]);
  assert.deepEqual(found.map(({ rank }) => rank), [0, 2, 3, 4, 1]);
});

test("a sweep that moved nothing is cold, not NaN", () => {
  assert.deepEqual(heat(CELLS.map((given) => ({ ...given, rms: given.rms.map(() => 0) })), "rms").map(({ share }) => share), [0, 0, 0, 0, 0]);
});

test("the content measure shows only where every cell has it", () => {
  assert.deepEqual(measures({ cells: CELLS, units: {} }), ["rms"]);
  const embedded = CELLS.map((given) => ({ ...given, cosine: given.rms }));
  assert.deepEqual(measures({ cells: embedded, units: {} }), ["rms", "cosine"]);
});

test("ratios of one block share its place", () => {
  assert.deepEqual(places(CELLS), [[0], [1, 2], [3], [4]]);
});

test("arrow keys go along the sweep and along an arm", () => {
  assert.equal(next(CELLS, 0, "ArrowRight"), 1);
  assert.equal(next(CELLS, 4, "ArrowRight"), 4);
  assert.equal(next(CELLS, 0, "ArrowLeft"), 0);
  assert.equal(next(CELLS, 1, "ArrowDown"), 3);
  assert.equal(next(CELLS, 3, "ArrowUp"), 1);
  assert.equal(next(CELLS, 0, "ArrowDown"), 4);
  assert.equal(next(CELLS, 2, "End"), 4);
  assert.equal(next(CELLS, 2, "x"), 2);
});

test("figures and addresses", () => {
  assert.equal(figure(12.345), "12.3");
  assert.equal(figure(0.012345), "0.0123");
  assert.equal(address({ filename: "a b&c.jpg", subfolder: "x", type: "temp" }), "/view?filename=a+b%26c.jpg&subfolder=x&type=temp");
});

test("heat by block: of several ratios the farthest", () => {
  const cells = [cell("unmodified", [1, 0], []), cell("IN04 = 0.5", [0, 4], [1, 3]), cell("IN04 = 0.75", [0, 4], [5]), cell("M00 = 0.5", [1, 12], [0])];
  assert.deepEqual(heatByBlock({ units: {}, cells }), { IN04: 5, M00: 0 });
});
