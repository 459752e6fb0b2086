"""Which block carries the object, which the colour: single-block attenuation, block prompts, growth; read by the judge."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockwork.blocks.names import LAYOUTS
from blockwork.injection import host as injection
from blockwork.injection.concept import LAYERS
from blockwork.injection.host_change import change
from blockwork.merge.live.host import scale_blocks
from torch import Tensor

from . import pages, sampling

BLOCKS = list(LAYOUTS["sd1"].blocks)
ATTENDING = ["M00" if name == "MID" else name for name in LAYERS]
FROM_MIDDLE = ["M00", "OUT03", "IN08", "OUT04", "IN07", "OUT05", "IN05", "OUT06", "IN04", "OUT07", "OUT08",
               "IN02", "OUT09", "IN01", "OUT10", "OUT11"]  # fmt: skip
# What the study found to carry the one and not the other.
OBJECT, COLOUR = "IN04-IN08, M00, OUT03-OUT07", "IN01, IN02, OUT08-OUT11"
RATIO = 0.5
# Own prompt, other prompt: shape and colour both differ, every shape and colour comes up on both sides.
PROMPTS = [
    (("circle", "red"), ("star", "blue")), (("square", "blue"), ("ring", "yellow")),
    (("triangle", "yellow"), ("cross", "green")), (("star", "green"), ("circle", "purple")),
    (("cross", "purple"), ("square", "red")), (("ring", "orange"), ("triangle", "blue")),
    (("square", "yellow"), ("circle", "green")), (("circle", "blue"), ("square", "green")),
    (("ring", "red"), ("star", "orange")), (("star", "yellow"), ("cross", "red")),
    (("cross", "orange"), ("triangle", "purple")), (("triangle", "green"), ("ring", "purple")),
]  # fmt: skip


def sentence(thing: tuple[str, str]) -> str:
    return sampling.prompt(*thing, extra="big")


def sentences(side: int, pairs: Sequence = PROMPTS) -> list[str]:
    """The own prompts (``side`` 0) or the other ones (1)."""
    return [sentence(pair[side]) for pair in pairs]


def attenuation() -> tuple[dict[str, list[float]], list[Tensor]]:
    """Per block at half its weights: how often shape and colour are still right, and how far the picture moved."""
    base = sampling.model()
    plain = sampling.paint(base, sentences(0))
    found: dict[str, list[float]] = {"shape": [], "colour": [], "moved x 4": []}
    shown = []
    for block in BLOCKS:
        painted = sampling.paint(scale_blocks(base, f"1, {block}={RATIO}")[0], sentences(0))
        shape, colour = sampling.right(painted, [own for own, _ in PROMPTS])
        for values, value in zip(
            found.values(), (shape, colour, 4 * float((painted - plain).abs().mean())), strict=True
        ):
            values.append(value)
        shown.append(painted[:6])
    return found, shown


def injected(blocks: str, pairs: Sequence = PROMPTS) -> Tensor:
    """Every pair's own prompt painted with the other prompt in ``blocks``: a picture ``64 64 3`` per pair."""
    base = sampling.model()
    conditioning: Any = sampling.together(sentences(0, pairs))
    if blocks:
        conditioning = change(base, sampling.together(sentences(1, pairs)), blocks).on(conditioning)
    return sampling.paint(injection.prepare(base), conditioning, len(pairs))


def share_of_other(pictures: Tensor, pairs: Sequence = PROMPTS) -> dict[str, float]:
    """How often the judge sees the own prompt's shape and colour, and the other prompt's."""
    own = sampling.right(pictures, [pair[0] for pair in pairs])
    other = sampling.right(pictures, [pair[1] for pair in pairs])
    return {"own shape": own[0], "own colour": own[1], "other shape": other[0], "other colour": other[1]}


@functools.cache
def measured(blocks: str) -> dict[str, float]:
    return share_of_other(injected(blocks))


def run(out: Path) -> None:
    """Write ``block_roles.md`` and its pictures."""
    attenuated, shown = attenuation()
    single = {block: measured(block) for block in ATTENDING}
    inward = [", ".join(FROM_MIDDLE[: n + 1]) for n in range(len(FROM_MIDDLE))]
    grown = [measured(blocks) for blocks in inward]
    outer = [", ".join(FROM_MIDDLE[n + 1 :]) for n in range(len(FROM_MIDDLE))]
    shrunk = [measured(blocks) if blocks else measured("") for blocks in outer]
    names = [f"+{block}" for block in FROM_MIDDLE]
    pick = max(range(len(grown)), key=lambda n: grown[n]["other shape"] + grown[n]["own colour"])
    fine = max(range(len(shrunk)), key=lambda n: shrunk[n]["other colour"] + shrunk[n]["own shape"])
    sets = {"object": inward[pick], "colour": outer[fine]}
    pairs = PROMPTS[:8]
    rows = [injected(blocks, pairs) for blocks in ("", sets["object"], sets["colour"], ", ".join(ATTENDING))]
    sheet = pages.grid(rows, [""] * len(pairs), ["own prompt", "other prompt\nin the middle", "other prompt\noutside", "other prompt\neverywhere"])  # fmt: skip
    chart = pages.stack(
        [
            pages.bars(BLOCKS, attenuated, f"One block at {RATIO} of its weights: still right, and how far the picture moved"),
            pages.bars(ATTENDING, {k: [single[b][k] for b in ATTENDING] for k in ("other shape", "other colour")},
                       "Another prompt in one block alone: its shape, its colour arrive"),
            pages.bars(names, {k: [g[k] for g in grown] for k in ("other shape", "other colour")},
                       "Another prompt in a set that grows from the middle outward"),
            pages.bars(names, {k: [g[k] for g in shrunk] for k in ("other shape", "other colour")},
                       "Another prompt in all the blocks outside that set"),
        ]
    )  # fmt: skip
    text = f"""# What a block does in the demo base model

{len(PROMPTS)} pairs of prompts that differ in shape and colour, one image each, {sampling.STEPS} steps of
{sampling.SAMPLER}, guidance {sampling.GUIDANCE}, classified by the demo classifier: one image is {1 / len(PROMPTS):.3f}.
Made by `python tools/study_demo_models.py blocks`.

![images](block_roles.jpg)

Another prompt in **{sets["object"]}** brings its object and leaves the colour:

{pages.table(("blocks", "other shape", "own shape", "other colour", "own colour"), [
    (name, v["other shape"], v["own shape"], v["other colour"], v["own colour"])
    for name, v in (("none", measured("")), ("object set: " + sets["object"], grown[pick]),
                    ("colour set: " + sets["colour"], shrunk[fine]),
                    ("all", measured(", ".join(FROM_MIDDLE))))
])}

![charts](block_roles_charts.png)

## One block at {RATIO} of its weights

{pages.table(("block", "shape right", "colour right", "moved"), [
    (b, s, c, m / 4) for b, s, c, m in zip(BLOCKS, *attenuated.values(), strict=True)])}

## Another prompt in one block

{pages.table(("block", "other shape", "other colour", "own shape", "own colour"), [
    (b, v["other shape"], v["other colour"], v["own shape"], v["own colour"]) for b, v in single.items()])}
"""  # fmt: skip
    attenuated_sheet = pages.grid(shown, [""] * 6, BLOCKS, cell=64, margin=70)
    pages.write(out, "block_roles", text, {"block_roles.jpg": sheet, "block_roles_charts.png": chart,
                                           "block_attenuation.jpg": attenuated_sheet})  # fmt: skip
