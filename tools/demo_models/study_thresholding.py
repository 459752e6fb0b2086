"""What thresholding saves at high guidance, and what another prompt in stage II repaints; read by the judge."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from blockwork.demo_models import world
from blockwork.demo_models.stages import stage_file
from torch import Tensor

from . import pages, pixels, sampling
from .pixels import Threshold
from .sampling import demo_models
from .training import SCRATCH

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
LEVELS = (0.0, 0.3, 0.6, 0.9)
# What stage I is told, what stage II: another shape, or another colour.
SHAPE_CHANGES = [
    (("circle", "red"), ("star", "red")), (("square", "blue"), ("ring", "blue")),
    (("triangle", "green"), ("circle", "green")), (("star", "yellow"), ("square", "yellow")),
    (("ring", "purple"), ("triangle", "purple")), (("cross", "orange"), ("circle", "orange")),
]  # fmt: skip
COLOUR_CHANGES = [
    (("circle", "red"), ("circle", "blue")), (("square", "yellow"), ("square", "purple")),
    (("star", "green"), ("star", "orange")), (("ring", "blue"), ("ring", "yellow")),
    (("triangle", "purple"), ("triangle", "green")), (("cross", "orange"), ("cross", "red")),
]  # fmt: skip
CHANGES = SHAPE_CHANGES + COLOUR_CHANGES


def prompts(things: Sequence[tuple[str, str]] = THINGS, grounds: Sequence[str] = GROUNDS) -> list[str]:
    return [sampling.prompt(*thing, ground, "big") for thing, ground in zip(things, grounds, strict=False)]


def read(pictures: Tensor, things: Sequence[tuple[str, str]] = THINGS) -> dict[str, float]:
    """The judge's share of right shapes and colours, and the share of saturated pixels."""
    verdict = demo_models.judge(pixels.images(pictures))
    return {
        "shape": verdict.right("shape", [shape for shape, _ in things]),
        "colour": verdict.right("colour", [colour for _, colour in things]),
        "saturated": pixels.saturated(pictures),
    }


def told(side: int) -> list[str]:
    """The prompts of stage I (``side`` 0) or II (1) of all changes."""
    return prompts([change[side] for change in CHANGES], ["grey"] * len(CHANGES))


def repainted(level: float) -> tuple[Tensor, dict[str, float]]:
    """Stage II with another prompt than stage I's at one augmentation level: pictures, and what the judge sees."""
    below = kept("changed below", "I", lambda: pixels.drawn(told(0), 7.0))
    pictures = kept(
        f"changed {level:g}", "I II", lambda: pixels.enlarged(below, told(1), 6.0, level, pixels.REDRAW)
    )
    verdict = demo_models.judge(pixels.images(pictures))
    half, found = len(SHAPE_CHANGES), {}
    for what, index, of in (("shape", 0, slice(half)), ("colour", 1, slice(half, None))):
        for whose, side in (("new", 1), ("old", 0)):
            right = [a == b[side][index] for a, b in zip(verdict.answers[what][of], CHANGES[of], strict=True)]
            found[f"{whose} {what}"] = sum(right) / half
    return pictures, found


def kept(name: str, stages: str, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, or what it gave before with the same weights and prompts: a study that was stopped goes on."""
    given = hashlib.sha256(b"".join(stage_file(stage).read_bytes() for stage in stages.split()))
    given.update(repr((prompts(), CHANGES)).encode())
    path = SCRATCH / "thresholding" / f"{name} {given.hexdigest()[:12]}.pt"
    if not path.is_file():
        pictures = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        torch.save(pictures, half)
        half.replace(path)
    return torch.load(path, weights_only=True)


def finding(found: dict[tuple[str, int], dict[str, float]]) -> str:
    """The figures of guidance 15 and 30 in words."""
    said = []
    for g in (15, 30):
        blown = [f"{mode} {found[mode, g]['saturated']:.1%}" for mode in MODES]
        right = [
            f"{mode} {round(found[mode, g]['shape'] * len(THINGS))} and {round(found[mode, g]['colour'] * len(THINGS))}"
            for mode in MODES
        ]
        said.append(
            f"At guidance {g} saturated pixels are: {', '.join(blown)}. Of {len(THINGS)} shapes and colours the "
            f"classifier reads right: {', '.join(right)}."
        )
    return "\n\n".join(said) + (
        "\n\nOne image of 24 is 0.042; with one seed, differences of three or four are chance. On this list of "
        "timesteps images at strong guidance without a threshold are saturated but readable; thresholds keep them in "
        "range and do not improve what the classifier reads. On the whole schedule only images with a threshold are readable."
    )


def whole(mode: str, guidance: int) -> dict[str, float]:
    """``read`` of pictures sampled from the very end of the schedule."""
    name = f"whole {mode} {guidance}"
    return read(kept(name, "I", lambda: pixels.drawn(prompts(), guidance, MODES[mode], spacing=pixels.WHOLE)))


def run(out: Path) -> None:
    """Write ``thresholding.md`` and its pictures."""
    small = {
        (mode, g): kept(
            f"{mode} {g}", "I", lambda g=g, threshold=threshold: pixels.drawn(prompts(), g, threshold)
        )
        for mode, threshold in MODES.items()
        for g in GUIDANCES
    }
    found = {cell: read(pictures) for cell, pictures in small.items()}
    shown = (0, 8, 3, 16)  # of the prompts, for the sheet
    sheet_prompts = [prompts()[i] for i in shown]

    def above(mode: str) -> Tensor:
        below = torch.cat([small[mode, g][list(shown)] for g in (2, 7, 15, 30)])
        return kept(f"{mode} above", "I II", lambda: pixels.enlarged(below, sheet_prompts * 4))

    rows = [list(pixels.images(above(mode))) for mode in MODES]
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
    other = {level: repainted(level) for level in LEVELS}
    change_sheet = pages.grid(
        [list(pixels.images(pictures)) for pictures, _ in other.values()],
        [f"to {b[0] if a[1] == b[1] else b[1]}" for a, b in CHANGES], [f"aug_level {level:g}" for level in LEVELS], cell=84, margin=110,
    )  # fmt: skip
    tables = {
        what: pages.table(
            ("threshold", *(f"{g}" for g in GUIDANCES)),
            [(m, *(found[m, g][what] for g in GUIDANCES)) for m in MODES],
        )
        for what in ("saturated", "shape", "colour")
    }
    text = f"""# What thresholding saves at high guidance

The demo models' stage I (16 x 16), {len(THINGS)} prompts (a big shape in a colour on a background, every shape and every colour
four times), learned-range DDPM, timesteps `{pixels.SPACING}`, one seed per prompt, the same for every cell. A pixel
is *saturated* when one of its channels is within one level of 256 of the end of the range, or beyond it, in the
output of the sampler, before clipping. The training images have no such pixel: their whitest background is 244 of 255, their blackest 22.
The demo classifier reads the images enlarged. Of training images reduced to 16 x 16 and enlarged in the same way it reads 99 % of the big
shapes, all colours and 70 % of the textures right, so no texture is asked for. Dynamic thresholds have no cap.
Made by `python tools/study_demo_models.py thresholding`.

![stage II on the output of stage I](thresholding.jpg)

Stage I under each threshold (rows) at guidance 2, 7, 15 and 30, enlarged by stage II at guidance 1. The four images of a
group are {", ".join(f"*{prompt}*" for prompt in sheet_prompts)}.

![charts](thresholding.png)

{finding(found)}

## Saturated pixels

{tables["saturated"]}

## Shape right

{tables["shape"]}

## Colour right

{tables["colour"]}

## From the end of the schedule

The same with the timesteps `{pixels.WHOLE}`, which start at the last of the thousand, as IF's own lists do:

{pages.table(("threshold", "guidance", "saturated", "shape right", "colour right"), [
    (mode, g, seen["saturated"], seen["shape"], seen["colour"])
    for g in (4, 15) for mode in ("none", "static", "dynamic 0.95") for seen in (whole(mode, g),)])}

## Another prompt while enlarging

Stage I renders one object on grey at guidance 7 with its own threshold (dynamic 0.95, cap 1.5). Stage II renders it again from
90 % of the schedule at guidance 6 with another prompt: another shape in the first six columns, another colour in the last six. The table counts
the six images of each kind. `aug_level` is how much noise is added to the image of stage I before stage II reads it. With more noise
more of the new colour arrives, but in patches beside the object, and a new shape almost never does: this stage II was trained on
crops. It knows which colours and edges belong to a prompt, not where a shape is.

![another prompt in stage II](prompt_change.jpg)

{pages.table(("aug_level", *next(iter(other.values()))[1]), [
    (f"{level:g}", *seen.values()) for level, (_, seen) in other.items()])}
"""  # fmt: skip
    pages.write(out, "thresholding", text, {"thresholding.jpg": sheet, "thresholding.png": charts,
                                            "prompt_change.jpg": change_sheet})  # fmt: skip
