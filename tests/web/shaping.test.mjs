import assert from "node:assert/strict";
import { test } from "node:test";

import { keyed, snap } from "../../web/deck/gestures.mjs";
import { PRESETS } from "../../web/deck/presets.mjs";
import { blend, invert, mirror, points, range, relayout, same, scale, solo } from "../../web/deck/shaping.mjs";

const { GRAD_V, GRAD_A, SMOOTHSTEP, ALL_A, ALL_B } = PRESETS.sd1;
const SHIFT = { shiftKey: true, ctrlKey: false, altKey: false };
const CTRL = { shiftKey: false, ctrlKey: true, altKey: false };
const PLAIN = { shiftKey: false, ctrlKey: false, altKey: false };

test("invert and mirror lead from one preset to its relative, and back", () => {
  assert.ok(same(invert(GRAD_V), GRAD_A));
  assert.ok(same(mirror(SMOOTHSTEP), PRESETS.sd1["REVERSE-SMOOTHSTEP"]));
  for (const values of Object.values(PRESETS.sd1)) {
    assert.ok(same(invert(invert(values)), values));
    assert.deepEqual(mirror(mirror(values)), values);
  }
});

test("a blend starts at the first, ends at the second, and is half way at 0.5", () => {
  assert.ok(same(blend(GRAD_V, SMOOTHSTEP, 0), GRAD_V));
  assert.ok(same(blend(GRAD_V, SMOOTHSTEP, 1), SMOOTHSTEP));
  assert.ok(same(blend(ALL_A, ALL_B, 0.5), Array(25).fill(0.5)));
});

test("scale and shift", () => {
  assert.deepEqual(scale([0, 0.5, 1], 2, -0.25), [-0.25, 0.75, 1.75]);
});

test("solo keeps one block", () => {
  assert.deepEqual(solo([0.1, 0.2, 0.3], 1), [0, 0.2, 0]);
  assert.deepEqual(solo([0.1, 0.2, 0.3], 1, 1), [1, 0.2, 1]);
});

test("SDXL leaves out IN09-IN11 and OUT09-OUT11", () => {
  const down = relayout(GRAD_V, "sd1", "sdxl");
  assert.equal(down.length, 19);
  assert.deepEqual([down[8], down[9], down[10], down[18]], [GRAD_V[8], GRAD_V[12], GRAD_V[13], GRAD_V[21]]);
  const up = relayout(down, "sdxl", "sd1", 0);
  assert.deepEqual([up[8], up[9], up[12], up[24]], [GRAD_V[8], 0, GRAD_V[12], 0]);
});

test("the bars' scale grows in whole numbers", () => {
  assert.deepEqual(range([0.2, 0.7]), { low: 0, high: 1 });
  assert.deepEqual(range([-0.2, 1.7]), { low: -1, high: 2 });
});

test("a thumbnail has one point per block inside its box", () => {
  const drawn = points([-1, 0.5, 2], 60, 20).split(" ").map((pair) => pair.split(",").map(Number));
  assert.deepEqual(drawn, [[0, 20], [30, 10], [60, 0]]);
});

test("coarse, normal and fine steps", () => {
  assert.deepEqual([snap(0.4567, PLAIN), snap(0.4567, SHIFT), snap(0.4567, CTRL)], [0.46, 0.457, 0.5]);
  assert.equal(keyed("ArrowUp", 0.1, PLAIN), 0.11);
  assert.equal(keyed("ArrowDown", 0.1, SHIFT), 0);
  assert.equal(keyed("ArrowRight", 1, PLAIN), 1.01);
  assert.equal(keyed("ArrowRight", 0.1, { ...PLAIN, altKey: true }), 0.101);
  assert.deepEqual(["Home", "End", "a"].map((key) => keyed(key, 0.3, PLAIN)), [0, 1, null]);
});
