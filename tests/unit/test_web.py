"""The browser's pure modules: their own tests under node, and parity with the Python they mirror."""

import json
import shutil
import subprocess
from pathlib import Path

import draw_presets
import pytest
from blockwork.blocks import presets, weights

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(
    NODE is None, reason="node is not installed: the browser modules are not tested"
)

TEXTS = [
    ("GRAD_V", "sd1"),
    ("COSINE", "sdxl"),
    ("0.25", "sdxl"),
    (", ".join(f"{i / 7}" for i in range(25)), "sd1"),
    (",".join(f"{i / 7}" for i in range(26)), "sd1"),
    (",".join(f"{-i / 3}" for i in range(19)), "sdxl"),
    (",".join(["1"] * 20), "sdxl"),
    (",".join(["1."] * 21), "sdxl"),
    ("MINE: " + ",".join(["0.1"] * 25), "sd1"),
    ("MINE\t" + ",".join(["0.1"] * 25) + ",", "sd1"),
    ("GRAD_A, IN00=0.75, OUT03-OUT05=0.2, MID=3, BASE=0.5, VAE=1e-3", "sd1"),
    ("in_4=.5, M_00=-1, ALL=0.125, OUT8=2", "sdxl"),
    ("IN04=0.75", "sd1"),
    ("0.5, IN04=0.75, BASE=0.1", "sd1"),
    ("D00-D07=0.3, S20=0.25, IN=1, double_9=2", "flux"),
    ("flux: " + ", ".join(["0.5"] * 58), "flux"),
    (",".join(f"{i / 7}" for i in range(61)), "flux"),
    (",".join(f"{i / 7}" for i in range(61)), "chroma"),
    ("GRAD_V, layer_3=0.5", "qwen_image"),
    ("LAST_THIRD, NR=0.5, CR00-01=2", "z_image"),
    ("joint_blocks.3=0.5", "sd3"),
    (",".join(["0.5"] * 25), "klein_4b"),
]
BAD = ["", "0.1, 0.2", "GRAD_X", "IN12=1", "OUT05-OUT03=1", "IN00=nan", "nan", "1,,2", "IN00=1=2"]


def _node(program: str, data: object) -> object:
    """What a module of web/deck computes for ``data``, as JSON."""
    assert NODE
    code = f"import * as lib from {json.dumps((ROOT / 'web/deck/weights.mjs').as_uri())}; const data = {json.dumps(data)}; {program}"
    answer = subprocess.run(
        [NODE, "--input-type=module", "-e", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@needs_node
def test_browser_modules():
    assert NODE
    files = sorted(str(path) for path in (ROOT / "tests/web").glob("*.test.mjs"))
    assert files
    answer = subprocess.run([NODE, "--test", *files], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]


@needs_node
def test_texts_read_and_written_as_in_python():
    program = """console.log(JSON.stringify(data.map(([text, layout, neutral]) => {
        const read = lib.parse(text, layout, {}, neutral); return { ...read, text: lib.format(read) }; })))"""
    given = [(*text, neutral) for neutral in (0.0, 1.0) for text in TEXTS]
    answers = _node(program, given)
    assert isinstance(answers, list) and len(answers) == len(given)
    for (text, layout, neutral), read in zip(given, answers, strict=True):
        expected = weights.parse(text, layout, default=neutral)
        assert read["layout"] == layout
        assert read["values"] == pytest.approx(expected.values, abs=1e-9)
        assert read["extra"] == dict(expected.extra)
        assert read["rest"] == expected.rest
        assert read["named"] is None or set(read["named"]) == set(expected.named or expected.layout.blocks)
        assert weights.parse(read["text"], layout).extra == expected.extra
        if layout == "chroma" and neutral:
            continue  # a list of Flux leaves out Chroma's first stack, whose numbers nothing reads
        if not text.startswith(("GRAD", "COSINE")):  # preset numbers are rounded to ten places in the browser
            assert weights.parse(read["text"], layout, default=neutral) == expected


@needs_node
def test_texts_refused_as_in_python():
    program = """console.log(JSON.stringify(data.map((text) => {
        try { lib.parse(text); return false; } catch (error) { return error instanceof lib.WeightsError; } })))"""
    assert _node(program, BAD) == [True] * len(BAD)
    for text in BAD:
        with pytest.raises(ValueError):
            weights.parse(text, "sd1")


@needs_node
@pytest.mark.parametrize("layout", ["sd1", "sdxl", "flux", "qwen_image", "klein_4b"])
def test_presets_are_those_of_python(layout: str):
    program = """const all = {}; for (const name of data.names) all[name] = lib.presetValues(name, data.layout);
        console.log(JSON.stringify(all))"""
    names = presets.names(layout)
    browser = _node(program, {"names": names, "layout": layout})
    assert isinstance(browser, dict)
    for name in names:
        assert browser[name] == pytest.approx(presets.preset(name, layout), abs=1e-9), name


def test_preset_module_is_current():
    assert draw_presets.TARGET.read_text(encoding="utf-8") == draw_presets.text(), (
        "run tools/draw_presets.py and commit web/deck/presets.mjs"
    )
    assert draw_presets.LAYOUTS_TARGET.read_text(encoding="utf-8") == draw_presets.layouts_text()
    assert draw_presets.LORA_TARGET.read_text(encoding="utf-8") == draw_presets.lora_text()
