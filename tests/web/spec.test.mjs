import assert from "node:assert/strict";
import { test } from "node:test";

import { PROMPTED } from "../../web/deck/blocks.mjs";
import { words } from "../../web/deck/messages.mjs";
import { chosen, groups, read, resolution, write } from "../../web/deck/spec.mjs";

const weights = (text, layout) => Object.fromEntries([...read(text, layout).chosen].map(([k, v]) => [k, v.weight]));

test("names, ranges, steps, groups and weights", () => {
  assert.deepEqual(weights("IN04-IN08, M00=0.5, OUT03"), { IN04: 1, IN05: 1, IN07: 1, IN08: 1, M00: 0.5, OUT03: 1 });
  assert.deepEqual(Object.keys(weights("OUT03-OUT11(+2)")), ["OUT03", "OUT05", "OUT07", "OUT09", "OUT11"]);
  assert.deepEqual(Object.keys(weights("down")), ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08"]);
  assert.deepEqual(weights("up, OUT05=0.25").OUT05, 0.25);
  assert.deepEqual(weights("mid=0.3, _=0.1").IN01, 0.1);
  assert.equal(Object.keys(weights("all", "sdxl")).length, 11);
});

test("a list of weights is a spec", () => {
  assert.deepEqual(weights("RING10_5").IN05, 1);
  assert.equal(weights(Array(19).fill(0.5).join(","), "sd1").IN04, 0.5);
});

test("windows and parts stay with their block; a change keeps all other items", () => {
  const text = "IN04=0.5@0.0-0.4/k, idx:6, IN07, OUT03@s3-8";
  const spec = read(text);
  assert.deepEqual(spec.chosen.get("IN04"), { weight: 0.5, suffix: "@0-0.4/k" });
  assert.deepEqual(spec.chosen.get("M00"), { weight: 1, suffix: "" });
  assert.equal(chosen(text, "sd1", ["OUT04"], 0.5), `${text}, OUT04=0.5`);
  assert.equal(chosen(`${text}, OUT04=0.5`, "sd1", ["OUT04"], 0.25), `${text}, OUT04=0.25`);
  assert.equal(chosen(text, "sd1", ["IN07"], null), `${text}, IN07=0`);
  assert.equal(chosen("coarse", "sdxl", ["IN04"], 1), "coarse, IN04");
  assert.equal(chosen("M00", "sd1", ["IN04"], 1), "IN04, M00");
  assert.equal(chosen("IN99", "sd1", ["IN04"], 1), "IN99", "a text that cannot be read stays");
  assert.ok(read("IN99").error && read("coarse").error === "");
});

test("what is written reads back equal, whatever is chosen", () => {
  for (const layout of ["sd1", "sdxl"]) {
    const blocks = PROMPTED[layout];
    for (let mask = 0; mask < 2 ** blocks.length; mask += 37) {
      const given = new Map(
        blocks.filter((_, i) => mask & (1 << i)).map((block, i) => [block, { weight: i % 3 ? 1 : 0.5, suffix: "" }]),
      );
      const spec = { layout, chosen: given };
      const again = read(write(spec), layout);
      assert.deepEqual(again.chosen, given, write(spec));
      assert.equal(again.error, "");
    }
  }
});

test("resolutions and groups of both layouts", () => {
  assert.deepEqual([resolution("sd1", "IN01"), resolution("sd1", "M00"), resolution("sd1", "OUT03")], [64, 8, 16]);
  assert.deepEqual([resolution("sdxl", "IN04"), resolution("sdxl", "M00"), resolution("sdxl", "OUT00")], [64, 32, 32]);
  assert.deepEqual(groups("sdxl").coarse, ["IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02"]);
});

test("both languages have the same words", () => {
  const english = words("en");
  const japanese = words("ja-JP");
  for (const key of ["share", "mirror", "search", "prompted"]) assert.notEqual(english(key), japanese(key));
  assert.equal(words("xx")("mirror"), "Mirror");
});
