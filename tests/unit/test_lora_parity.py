"""The browser reads every weight text of a LoRA as Python does, and what it writes means the same there."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from blockwork.blocks.names import LAYOUTS, BlockError
from blockwork.merge.lora import weights

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
KINDS = ("sd1", "sdxl", "flux", "chroma", "z_image")
OWN = {"MINE": [i / 32 for i in range(25)], "ONE": [0.375]}
A, B = 0.75, -0.25
PARTS = [f"diffusion_model.middle_block.{part}.x" for part in range(3)]
PROGRAM = """
import { parseLora, formatLora } from %s;
import { withValue } from %s;
import { readFileSync } from "fs";
const { cases, own, letters } = JSON.parse(readFileSync(0));
console.log(JSON.stringify(cases.map(([text, layout, key, value]) => {
  try {
    const read = parseLora(text, layout, own, letters);
    if (read.layout !== layout || read.off?.length) return null;
    return { ...read, source: undefined, changed: formatLora(withValue(read, key, value)), unchanged: formatLora(read) };
  } catch (error) { if (error.constructor.name === "WeightsError") return null; throw error; }
})));"""


def _browser(cases: list) -> list:
    assert NODE
    modules = [
        json.dumps((ROOT / "web/deck" / name).as_uri()) for name in ("lora_weights.mjs", "weights.mjs")
    ]
    answer = subprocess.run(
        [NODE, "--input-type=module", "-e", PROGRAM % tuple(modules)],
        input=json.dumps({"cases": cases, "own": OWN, "letters": {"A": A, "B": B}}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout)


def _texts() -> list[tuple[str, str]]:
    """All presets, all lengths of lists, and 300 random combinations."""
    draw = random.Random(7)

    def numbers(count: int, letters: str = "") -> str:
        values = [str(round(draw.uniform(-1, 2), 2)) for _ in range(count)]
        return ",".join(draw.choice(letters) if letters and draw.random() < 0.3 else one for one in values)

    def item(layout: str) -> str:
        blocks = LAYOUTS[layout].blocks
        name = draw.choice([draw.choice(blocks), f"{blocks[1]}-{blocks[3]}", "BASE", "CLIP", "ALL"])
        return draw.choice([
            f"{name}={round(draw.uniform(-1, 2), 2)}", f"{name}={draw.choice(weights.LETTERS)}", draw.choice(fits[layout][0]),
            draw.choice(["GRAD_V", "ONE", "FIRST_THIRD"]), draw.choice(["MINE", "NO_SUCH", "R", "X=1"] if draw.random() < 0.3 else ["BASE=1"]),
        ])  # fmt: skip

    presets = [*weights.PRESETS, "SD-INALL", "SD-NONE"]
    counts = (1, 12, 17, 19, 20, 21, 25, 26, 27, 34, 57, 58, 61, 16)
    fits = {
        layout: (
            [one for one in presets if _read(one, layout, 0)],
            [one for one in counts if _read(numbers(one), layout, 0)],
        )
        for layout in KINDS
    }
    found = [(name, layout) for layout in KINDS for name in presets]
    found += [
        (numbers(count, letters), layout)
        for layout in KINDS
        for count in counts
        for letters in ("", "RUABab")
    ]
    while len(found) < len(KINDS) * (len(presets) + 2 * len(counts)) + 300:
        layout = draw.choice(KINDS)
        head = draw.choice(
            [numbers(draw.choice(fits[layout][1]), draw.choice(["", "RA"])), draw.choice(fits[layout][0]), ""]
        )
        label = draw.choice(["", "", "LABEL:", f"{layout}: "]) if head[:1].isdigit() else ""
        items = [item(layout) for _ in range(draw.randint(0 if head else 1, 3))]
        found.append((label + ", ".join([head, *items] if head else items), layout))
    return [*found, ("", "sd1"), ("MIDD,", "sd1"), ("1,1,1,1,1,1,1,1,1,1,1,R,R,R,0,0,0,0,0,0,0", "sdxl")]


def _read(text: str, layout: str, seed: int) -> dict[str, list[float]] | None:
    """The weight of every block (three for the middle block), and of BASE; None where the text cannot be read."""
    try:
        found = weights.read(text, LAYOUTS[layout], seed=seed, a=A, b=B, own_presets=OWN)
    except BlockError:
        return None
    read = {block: [found.of(block)] for block in LAYOUTS[layout].blocks}
    if "M00" in read:
        read["M00"] = [found.of("M00", key) for key in PARTS]
    return read | {"BASE": [found.text]}


@pytest.mark.skipif(NODE is None, reason="node is not installed: the browser modules are not tested")
def test_texts_of_loras_read_and_written_as_in_python():
    draw = random.Random(8)
    cases = [
        (text, layout, draw.choice([*LAYOUTS[layout].blocks, "BASE"]), draw.choice([0, 0.125, 3]))
        for text, layout in _texts()
    ]
    valid = late = 0
    for (text, layout, key, value), browser in zip(cases, _browser(cases), strict=True):
        python, other = _read(text, layout, 1), _read(text, layout, 2)
        assert (python is None) == (browser is None), (text, layout, browser)
        if python is None or other is None:
            continue
        valid += 1
        extra, rest = browser["extra"], browser["rest"]
        shown = dict(zip(LAYOUTS[layout].blocks, browser["values"], strict=True))
        shown["BASE"] = extra.get("BASE", extra.get("CLIP", 1 if rest is None else rest))
        unknown = browser.get("unknown", {})
        for name, numbers in python.items():
            if "/" in unknown.get(name, ""):
                pairs = zip(unknown[name].split(" / "), numbers, strict=True)
                assert all(one in "RU" or float(one) == pytest.approx(number) for one, number in pairs), (
                    text,
                    name,
                )
            elif name in unknown:
                assert unknown[name] in "RU" and numbers != other[name], (text, layout, name)
                late += 1
            else:
                assert [shown[name]] * len(numbers) == pytest.approx(numbers, abs=1e-9), (text, layout, name)
                assert numbers == other[name], (text, layout, name)
        changed, same = _read(browser["changed"], layout, 1), _read(browser["unchanged"], layout, 1)
        expected = {**python, key: [value] * len(python[key])}
        assert changed is not None and same is not None, (text, browser)
        for name in expected:
            assert same[name] == pytest.approx(python[name], abs=1e-9), (
                text,
                layout,
                name,
                browser["unchanged"],
            )
            assert changed[name] == pytest.approx(expected[name], abs=1e-9), (
                text, layout, name, browser["changed"],
            )  # fmt: skip
    assert valid > 250 and late > 100
