"""What thresholding saves at high guidance, and what another prompt in stage II repaints; read by the judge."""

from collections.abc import Sequence
from pathlib import Path

from blockwork.atelier import world
from torch import Tensor

from . import easel, pages, pixels
from .easel import atelier
from .pixels import Threshold

GUIDANCES = (1, 2, 4, 7, 10, 15, 20, 30)
MODES = {
    "none": Threshold("none"),
    "static": Threshold("static", bound="pixels"),
    "dynamic 0.9": Threshold("dynamic", 0.9, bound="pixels"),
    "dynamic 0.95": Threshold("dynamic", 0.95, bound="pixels"),
    "dynamic 0.995": Threshold("dynamic", 0.995, bound="pixels"),
}
# Every shape four times and every colour four times, some of the pairs kept from training.
THINGS = [
    (shape, list(world.COLOURS)[(index + step) % 6])
    for step in range(4)
    for index, shape in enumerate(world.SHAPES)
]
GROUNDS = [list(world.BACKGROUNDS)[index % 5] for index in range(len(THINGS))]
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CHANGES = [
    (("circle", "red"), ("star", "red")), (("square", "blue"), ("ring", "blue")),
    (("triangle", "green"), ("circle", "green")), (("circle", "red"), ("circle", "blue")),
    (("square", "yellow"), ("square", "purple")), (("star", "green"), ("star", "orange")),
]  # fmt: skip


def prompts(things: Sequence[tuple[str, str]] = THINGS, grounds: Sequence[str] = GROUNDS) -> list[str]:
    return [easel.prompt(*thing, ground, "big") for thing, ground in zip(things, grounds, strict=False)]


def read(pictures: Tensor, things: Sequence[tuple[str, str]] = THINGS) -> dict[str, float]:
    """The judge's share of right shapes and colours, and the share of saturated pixels."""
    verdict = atelier.judge(pixels.images(pictures))
    return {
        "shape": verdict.right("shape", [shape for shape, _ in things]),
        "colour": verdict.right("colour", [colour for _, colour in things]),
        "saturated": pixels.saturated(pictures),
    }


def changed(level: float) -> tuple[Tensor, dict[str, float]]:
    """Stage II with another prompt than stage I's at one augmentation level: pictures, and what the judge sees."""
    grounds = ["grey"] * len(CHANGES)
    first, second = ([pair[side] for pair in CHANGES] for side in (0, 1))
    below = pixels.drawn(prompts(first, grounds), 7.0)
    pictures = pixels.enlarged(below, prompts(second, grounds), 6.0, level)
    verdict = atelier.judge(pixels.images(pictures))
    seen = list(zip(verdict.answers["shape"], verdict.answers["colour"], strict=True))
    shape, colour = CHANGES[:3], CHANGES[3:]
    return pictures, {
        "new shape": sum(a[0] == new[0] for a, (_, new) in zip(seen[:3], shape, strict=True)) / 3,
        "new colour": sum(a[1] == new[1] for a, (_, new) in zip(seen[3:], colour, strict=True)) / 3,
        "as stage I had it": sum(a == old for a, (old, _) in zip(seen, CHANGES, strict=True)) / len(CHANGES),
    }


def run(out: Path) -> None:
    """Write ``thresholding.md`` and its pictures."""
    small = {
        (mode, g): pixels.drawn(prompts(), g, threshold)
        for mode, threshold in MODES.items()
        for g in GUIDANCES
    }
    found = {cell: read(pictures) for cell, pictures in small.items()}
    shown = (0, 8, 3, 16)  # of the prompts, for the sheet
    sheet_prompts = [prompts()[i] for i in shown]
    rows = [
        [
            picture
            for g in (2, 7, 15, 30)
            for picture in pixels.images(pixels.enlarged(small[mode, g][list(shown)], sheet_prompts))
        ]
        for mode in MODES
    ]
    heads = [f"guidance {g}" if not i else "" for g in (2, 7, 15, 30) for i in range(len(shown))]
    sheet = pages.grid(rows, heads, list(MODES), cell=72, margin=110)
    charts = pages.stack(
        [
            pages.lines(
                GUIDANCES,
                {mode: [found[mode, g][what] for g in GUIDANCES] for mode in MODES},
                title,
                "guidance",
            )
            for what, title in (
                ("saturated", "Saturated pixels"),
                ("shape", "Shape right"),
                ("colour", "Colour right"),
            )
        ]
    )
    repainted = {level: changed(level) for level in LEVELS}
    change_sheet = pages.grid(
        [list(pixels.images(pictures)) for pictures, _ in repainted.values()],
        [f"{a[1]} {a[0]}" for a, _ in CHANGES], [f"aug_level {level:g}" for level in LEVELS], cell=84, margin=110,
    )  # fmt: skip
    tables = {
        what: pages.table(
            ("threshold", *(f"{g}" for g in GUIDANCES)),
            [(m, *(found[m, g][what] for g in GUIDANCES)) for m in MODES],
        )
        for what in ("saturated", "shape", "colour")
    }
    text = f"""# What thresholding saves at high guidance

The atelier's stage I (16 x 16), {len(THINGS)} prompts (a big shape in a colour on a background, every shape and every colour
four times), learned-range DDPM, timesteps `{pixels.SPACING["I"]}`, one seed per prompt, the same for every cell. A pixel
is *saturated* when one of its channels is within one level of 256 of the end of the range, or beyond it, as the picture
leaves the sampler, before anything is clipped. Nothing drawn is: the whitest background is 244 of 255, the blackest 22.
The judge reads the pictures enlarged; of true drawings shrunk to 16 x 16 and enlarged alike it reads 99 % of the big
shapes and all colours right, textures at 70 %, which is why they are not asked for. Dynamic thresholds have no cap.
Remade by `python tools/study_atelier.py thresholding`.

![stage II of what stage I drew](thresholding.jpg)

Stage I under each threshold (rows) at guidance 2, 7, 15 and 30, enlarged by stage II at guidance 2; the four pictures of a
group are {", ".join(f"*{prompt}*" for prompt in sheet_prompts)}.

![charts](thresholding.png)

## Saturated pixels

{tables["saturated"]}

## Shape right

{tables["shape"]}

## Colour right

{tables["colour"]}

## Another prompt while enlarging

Stage I draws one thing at guidance 7 and its own threshold; stage II enlarges it at guidance 6 with another prompt: another
shape in the first three columns, another colour in the last three ({
        ", ".join(f"{a[1]} {a[0]} to {b[1]} {b[0]}" for a, b in CHANGES)
    }). The more noise hides the picture from below (`aug_level`), the more stage II follows its own prompt.

![another prompt in stage II](prompt_change.jpg)

{pages.table(("aug_level", "new shape", "new colour", "as stage I had it"), [
    (f"{level:g}", *seen.values()) for level, (_, seen) in repainted.items()])}
"""  # fmt: skip
    pages.write(out, "thresholding", text, {"thresholding.jpg": sheet, "thresholding.png": charts,
                                            "prompt_change.jpg": change_sheet})  # fmt: skip
