import assert from "node:assert/strict";
import { test } from "node:test";

import { keyed, snap, travelled } from "../../web/deck/gestures.mjs";
import { PRESETS } from "../../web/deck/presets.mjs";
import { NO_SHAPING, blend, brushed, dice, invert, mirror, points, range, relayout, same, scale, shaped, together } from "../../web/deck/shaping.mjs";

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
  assert.equal(keyed("ArrowRight", 0.1, PLAIN), 0.11);
  assert.equal(keyed("ArrowLeft", 0.1, SHIFT), 0);
  assert.equal(keyed("ArrowUp", 0.1, PLAIN), null, "up and down go to the next bar");
  assert.equal(keyed("ArrowRight", 1, PLAIN), 1.01);
  assert.equal(keyed("ArrowRight", 0.1, { ...PLAIN, altKey: true }), 0.101);
  assert.deepEqual(["Home", "End", "a"].map((key) => keyed(key, 0.3, PLAIN)), [0, 1, null]);
});

test("a press is a drag after 3 px; a finger that goes up or down scrolls", () => {
  assert.equal(travelled(2, 2, "mouse"), "wait");
  assert.equal(travelled(0, 4, "mouse"), "drag");
  assert.equal(travelled(1, 8, "touch"), "leave");
  assert.equal(travelled(8, 1, "touch"), "drag");
  assert.equal(travelled(1, 8, "touch", true), "drag", "painting goes up and down");
});

test("the brush pulls neighbours less the farther they are", () => {
  const pulled = brushed(ALL_A, 12, 1, 2);
  assert.equal(pulled[12], 1);
  assert.ok(pulled[11] === pulled[13] && pulled[11] > pulled[10] && pulled[10] > 0);
  assert.equal(pulled[0], 0);
});

test("groups are set, added to, multiplied", () => {
  assert.deepEqual(together([0.1, 0.2, 0.3], [0, 2], "set", 1), [1, 0.2, 1]);
  assert.deepEqual(together([0.1, 0.2, 0.3], [0, 2], "add", 0.1), [0.2, 0.2, 0.4]);
  assert.deepEqual(together([0.1, 0.2, 0.3], [0, 2], "multiply", 2), [0.2, 0.2, 0.6]);
});

test("dice: the same seed gives the same numbers, within the limits", () => {
  const rolled = dice(1000, 7, 0.25, 0.75);
  assert.deepEqual(dice(1000, 7, 0.25, 0.75), rolled);
  assert.notDeepEqual(dice(1000, 8, 0.25, 0.75), rolled);
  assert.ok(Math.min(...rolled) < 0.26 && Math.min(...rolled) >= 0.25 && Math.max(...rolled) > 0.74 && Math.max(...rolled) <= 0.75);
});

test("Block Weights: blend, mirror, invert, scale, offset, in that order", () => {
  assert.deepEqual(shaped([0, 0.25, 1], NO_SHAPING), [0, 0.25, 1]);
  const all = { blend_with: "X", blend: 0.5, mirror: true, invert: true, scale: 2, offset: 0.25 };
  assert.deepEqual(shaped([0, 0.25, 1], all, [1, 0.25, 1]), [0.25, 1.75, 1.25]);
});
