import assert from "node:assert/strict";
import { test } from "node:test";

import { LAYOUTS, place, span } from "../../web/deck/blocks.mjs";
import { PRESETS } from "../../web/deck/presets.mjs";
import { WeightsError, format, fromNumbers, numberOf, parse , withValue } from "../../web/deck/weights.mjs";

const FLAT = (count, value = 0.5) => Array(count).fill(value);

test("layouts have 25 and 19 blocks, M00 in the middle", () => {
  assert.equal(LAYOUTS.sd1.blocks.length, 25);
  assert.equal(LAYOUTS.sdxl.blocks.length, 19);
  assert.equal(LAYOUTS.sd1.blocks[12], "M00");
  assert.equal(LAYOUTS.sdxl.blocks[9], "M00");
  assert.equal(LAYOUTS.sd1.blocks.at(-1), "OUT11");
});

test("the arms face each other: IN00 beside OUT11, IN11 beside OUT00", () => {
  for (const { arms, blocks, ...rest } of Object.values(LAYOUTS)) {
    for (let n = 0; n < arms; n++) {
      const down = place({ arms, blocks, ...rest }, blocks[n]);
      const up = place({ arms, blocks, ...rest }, blocks[blocks.length - 1 - n]);
      assert.deepEqual([down.row, down.level, down.side, up.side], [up.row, up.level, "in", "out"]);
    }
  }
});

test("counts choose the layout and what stands apart", () => {
  const read = (count) => fromNumbers(FLAT(count), "sd1");
  assert.deepEqual([read(25).layout, read(25).extra], ["sd1", {}]);
  assert.deepEqual([read(26).layout, read(26).extra], ["sd1", { BASE: 0.5 }]);
  assert.deepEqual([read(19).layout, read(19).extra], ["sdxl", {}]);
  assert.deepEqual([read(20).layout, read(20).extra], ["sdxl", { BASE: 0.5 }]);
  assert.deepEqual([read(21).layout, read(21).extra], ["sdxl", { BASE: 0.5, VAE: 0.5 }]);
  assert.throws(() => read(24), WeightsError);
  assert.equal(fromNumbers([0.3], "sdxl").values.length, 19);
});

test("every form of the field reads", () => {
  assert.equal(parse("GRAD_V").values[0], 1);
  assert.equal(parse("MY NAME: " + FLAT(25)).values[7], 0.5);
  assert.equal(parse("name\t" + FLAT(19)).layout, "sdxl");
  const mixed = parse("GRAD_V, IN_04=0.2, OUT03-OUT05=-1.5, MID=2, BASE=0.4");
  assert.deepEqual([mixed.values[4], mixed.values[12], mixed.values[17], mixed.extra.BASE], [0.2, 2, -1.5, 0.4]);
  assert.equal(parse("FLAT", "sdxl", { FLAT: FLAT(19, 0.1) }).values[3], 0.1);
});

for (const bad of ["", "NaN", "GRAD_X", "0.1, 0.2", "IN12=1", "IN00=x", "OUT05-OUT03=1", "IN00=1=2", "0.1,,0.2"]) {
  test(`${JSON.stringify(bad)} is refused with a reason`, () => {
    assert.throws(() => parse(bad), (error) => error instanceof WeightsError && error.message.length > 5);
  });
}

test("what is written reads back equal", () => {
  const values = LAYOUTS.sd1.blocks.map((_, i) => Math.sin(i) * 1.7);
  for (const extra of [{}, { BASE: 0.1 }, { BASE: 0.1, VAE: -2 }, { VAE: 0.3 }, { CLIP: 0.25 }]) {
    const weights = { layout: "sd1", values, extra, named: null, rest: null };
    assert.deepEqual(parse(format(weights)), weights);
  }
});

test("off is kept, until its block gets a number", () => {
  const weights = parse("IN04=off, IN05=0.5");
  assert.deepEqual(weights.off, ["IN04"]);
  assert.equal(format(weights), "IN05=0.5, IN04=off");
  assert.equal(format(withValue(weights, "IN04", 0.25)), "IN04=0.25, IN05=0.5");
  assert.equal(format(parse("1, M00=off")), "1, M00=off");
});

test("presets: 38 for SD1, 34 for SDXL, all of the right length", () => {
  assert.equal(Object.keys(PRESETS.sd1).length, 38);
  assert.equal(Object.keys(PRESETS.sdxl).length, 34);
  for (const [layout, presets] of Object.entries(PRESETS)) {
    for (const values of Object.values(presets)) assert.equal(values.length, LAYOUTS[layout].blocks.length);
  }
});

test("spans of blocks", () => {
  assert.deepEqual(span(LAYOUTS.sd1, "IN11-OUT00"), ["IN11", "M00", "OUT00"]);
  assert.equal(span(LAYOUTS.sd1, "OUT00-IN11"), null);
  assert.equal(span(LAYOUTS.sdxl, "IN09"), null);
});

test("typed numbers", () => {
  assert.deepEqual(["0,5", " -1.25 ", ".5", "1e-3", "", "x", "1 2", "Infinity"].map(numberOf), [
    0.5, -1.25, 0.5, 0.001, null, null, null, null,
  ]);
});

test("blocks that a text does not name keep the neutral weight", () => {
  assert.deepEqual(parse("IN04=0.75", "sd1", {}, 1).values, LAYOUTS.sd1.blocks.map((block) => (block === "IN04" ? 0.75 : 1)));
  assert.deepEqual(parse("0.5, IN04=0.75", "sdxl", {}, 1).values.slice(0, 6), [0.5, 0.5, 0.5, 0.5, 0.75, 0.5]);
});
