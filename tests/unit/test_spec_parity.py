"""The browser reads every block spec as Python does, and a gesture on the deck changes what it is made on only."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from blockwork.blocks.spec import SpecError, parse
from blockwork.blocks.walk import ModelBlocks
from blockwork.injection.concept import SD1

from .test_spec import SDXL as SDXL_BLOCKS

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
LAYOUTS: dict[str, ModelBlocks] = {"sd1": SD1, "sdxl": SDXL_BLOCKS}

pytestmark = pytest.mark.skipif(
    NODE is None, reason="node is not installed: the browser modules are not tested"
)


def node(program: str, data: object) -> list:
    """What the deck's modules compute for ``data``, as JSON."""
    assert NODE
    imports = "".join(
        f"import * as {name} from {json.dumps((ROOT / 'web/deck' / file).as_uri())};"
        for name, file in (("text", "spec_text.mjs"), ("deck", "spec.mjs"))
    )
    code = f"{imports} const data = JSON.parse(require_('fs').readFileSync(0)); {program}"
    code = (
        f"import {{ createRequire }} from 'module'; const require_ = createRequire(import.meta.url); {code}"
    )
    answer = subprocess.run(
        [NODE, "--input-type=module", "-e", code],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout)


def random_spec(draw: random.Random, blocks: ModelBlocks) -> str:
    """A spec of any dialect; most of the long ones cannot be read."""

    def selection() -> str:
        block = draw.choice(blocks.blocks)
        other = draw.choice(blocks.blocks)
        inner = draw.choice(["", f".{draw.randint(0, 3)}", f".{draw.randint(0, 2)}-{draw.randint(1, 9)}"])
        resolution, direction, place = block.plus or (8, "down", 0)
        return draw.choice(
            [
                block.name,
                block.name.lower() + inner,
                f"{block.name}-{other.name}",
                f"{block.name} - {other.name}(+{draw.randint(0, 3)})",
                f"{block.side}:{block.number}{inner}",
                f"{block.side}:{block.number}-{draw.randint(0, 11)}",
                f"d{draw.randint(0, 6)}{inner}",
                f"u{draw.randint(0, 9)}-{draw.randint(0, 9)}",
                f"idx:{draw.randint(0, 16)}",
                f"idx:{draw.randint(0, 6)}-{draw.randint(4, 12)}",
                block.diffusers + draw.choice(["", ".transformer_blocks.1"]),
                block.diffusers.partition(".attentions")[0],
                f"({resolution},{direction},{place})",
                f"({resolution}, {direction}, {place})-M00",
                draw.choice(
                    [
                        "all",
                        "down",
                        "mid",
                        "up",
                        "coarse",
                        "Fine",
                        "8",
                        "16",
                        "32",
                        "64",
                        "_",
                        "MID",
                        "all(+3)",
                    ]
                ),
                draw.choice(["x", "IN99", "B03", "middle", "0.5"]),
            ]
        )

    def marks() -> str:
        start, end = sorted(draw.sample(range(11), 2))
        choices = [
            f"={draw.choice(['0', '1', '.5', '-2', '1e-1', '3.25'])}",
            draw.choice([f"@{start / 10}-{end / 10}", f" @ {start / 10} - {end / 10}"]),
            draw.choice(["/k", "/v", "/KV", " / k"]),
        ]
        if draw.random() < 0.05:
            choices.append(draw.choice([f"@s{start}-{end}", "=1e999", "/q", "=x", "@0.5-0.2"]))
        return "".join(draw.sample(choices, draw.choice([0, 0, 1, 1, 2, len(choices)])))

    if draw.random() < 0.05:
        return draw.choice(["GRAD_V", ", ".join(str(draw.choice([0, 0.5, 1])) for _ in blocks.layout.blocks)])
    items = [selection() + marks() for _ in range(draw.randint(1, 5))]
    return draw.choice([", ", ";", "\n", " , "]).join(items)


def settings_of(text: str, layout: str) -> dict[str, list] | None:
    """Layer -> its settings as plain lists; None where the spec cannot be read."""
    blocks = LAYOUTS[layout]
    names = {sub: f"{block.name}.{sub[2]}" for block in blocks.blocks for sub in block.sub_blocks}
    try:
        read = parse(text, blocks).settings
    except SpecError:
        return None
    return {
        names[sub]: [
            [
                round(one.weight, 9),
                one.part,
                one.window and [one.window.start, one.window.end, one.window.unit],
            ]
            for one in settings
        ]
        for sub, settings in read.items()
    }


IN_THE_BROWSER = """console.log(JSON.stringify(data.map(([spec, layout]) => {
    try {
        return Object.fromEntries([...text.settingsOf(spec, layout)].map(([layer, settings]) => [layer,
            settings.map(({ weight, part, window }) => [Math.round(weight * 1e9) / 1e9, part, window && [window.start, window.end, window.unit]])]));
    } catch (error) { if (error instanceof text.SpecError) return null; throw error; }
})));"""


def test_random_specs_read_as_in_python():
    draw = random.Random(1)
    cases = [(random_spec(draw, LAYOUTS[layout]), layout) for layout in LAYOUTS for _ in range(1500)]
    cases += [
        ("", "sd1"),
        ("(" * 500, "sd1"),
        ("x" * 5000, "sd1"),
        ("\uff29\uff2e\uff10\uff17\uff1d\uff0e\uff15", "sd1"),
    ]
    expected = [settings_of(text, layout) for text, layout in cases]
    valid = sum(one is not None for one in expected)
    assert 600 < valid < len(cases) - 600, "enough specs of both sorts"
    for case, python, browser in zip(cases, expected, node(IN_THE_BROWSER, cases), strict=True):
        assert python == browser, case


def test_gestures_change_only_what_they_are_made_on():
    """The law of the deck: after choosing a block its layers have the new weight, and every other layer keeps all."""
    draw = random.Random(2)
    cases = []
    while len(cases) < 800:
        layout = draw.choice(list(LAYOUTS))
        text = random_spec(draw, LAYOUTS[layout])
        if settings_of(text, layout) is not None:
            block = draw.choice(LAYOUTS[layout].attending).name
            cases.append((text, layout, block, draw.choice([None, 1, 0.25])))
    program = "console.log(JSON.stringify(data.map(([spec, layout, block, weight]) => deck.chosen(spec, layout, [block], weight))));"
    for (text, layout, block, weight), changed in zip(cases, node(program, cases), strict=True):
        before, after = settings_of(text, layout), settings_of(changed, layout) if changed else {}
        assert before is not None and after is not None, (text, block, weight, changed)
        layers = {f"{one.name}.{sub[2]}" for one in LAYOUTS[layout].blocks for sub in one.sub_blocks}
        for layer in layers:
            if layer.partition(".")[0] != block:
                assert after.get(layer, []) == before.get(layer, []) or _off(after, before, layer), (
                    text,
                    block,
                    changed,
                )
            elif weight is None:
                assert not any(setting[0] for setting in after.get(layer, [])), (text, block, changed)
            else:
                assert [setting[0] for setting in after[layer]] == [weight] * len(after[layer]), (
                    text,
                    block,
                    changed,
                )


def _off(after: dict[str, list], before: dict[str, list], layer: str) -> bool:
    """Whether a layer is off in both: weight 0 and not named are the same."""
    return not any(one[0] for one in (*after.get(layer, []), *before.get(layer, [])))
