import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const WEB = new URL("../../web/", import.meta.url);
const FILES = readdirSync(WEB, { recursive: true }).map((name) => name.replaceAll("\\", "/"));

test("every module loads where there is no page", async () => {
  const modules = FILES.filter((name) => name.endsWith(".mjs"));
  assert.ok(modules.length > 10);
  for (const name of modules) await import(new URL(name, WEB));
});

test("ComfyUI loads at most three scripts by itself", () => {
  assert.ok(FILES.filter((name) => name.endsWith(".js")).length <= 3);
});

test("no text of a workflow is read as markup", () => {
  for (const name of FILES.filter((file) => /\.m?js$/.test(file))) {
    assert.doesNotMatch(readFileSync(new URL(name, WEB), "utf8"), /innerHTML|insertAdjacentHTML|document\.write|\beval\(/, name);
  }
});
