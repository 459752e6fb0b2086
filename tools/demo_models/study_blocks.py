"""Which blocks carry the object, the colour and the style: another prompt in sets of blocks that were fixed beforehand."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from blockwork.blocks.names import LAYOUTS
from blockwork.injection import host as injection
from blockwork.injection.concept import LAYERS
from blockwork.injection.host_change import change
from blockwork.merge.live.host import scale_blocks
from torch import Tensor

from . import pages, sampling

BLOCKS = list(LAYOUTS["sd1"].blocks)
ATTENDING = ["M00" if name == "MID" else name for name in LAYERS]
# By resolution of the latents alone, before any image was sampled: 4 and 8, then 16, then 32.
COARSE, MIDDLE, FINE = "IN07, IN08, M00, OUT03-OUT05", "IN04, IN05, OUT06-OUT08", "IN01, IN02, OUT09-OUT11"
SETS = {
    "none": "", "coarse": COARSE, "coarse and middle": f"{COARSE}, {MIDDLE}", "middle": MIDDLE,
    "middle and fine": f"{MIDDLE}, {FINE}", "fine": FINE, "all": f"{COARSE}, {MIDDLE}, {FINE}",
}  # fmt: skip
OBJECT, COLOUR = SETS["coarse and middle"], FINE
RATIO = 0.5
PAIRS, SEEDS, SEED = 100, 3, 20
SINGLE = 12  # pairs for one block alone
# Own prompt, other prompt: shape and colour both differ, every shape and colour is on both sides.
PROMPTS = [
    (("circle", "red"), ("star", "blue")), (("square", "blue"), ("ring", "yellow")),
    (("triangle", "yellow"), ("cross", "green")), (("star", "green"), ("circle", "purple")),
    (("cross", "purple"), ("square", "red")), (("ring", "orange"), ("triangle", "blue")),
    (("square", "yellow"), ("circle", "green")), (("circle", "blue"), ("square", "green")),
    (("ring", "red"), ("star", "orange")), (("star", "yellow"), ("cross", "red")),
    (("cross", "orange"), ("triangle", "purple")), (("triangle", "green"), ("ring", "purple")),
]  # fmt: skip


def sentence(thing: tuple[str, str]) -> str:
    return sampling.prompt(*thing)


def sentences(side: int, pairs: Sequence = PROMPTS, styled: bool = False) -> list[str]:
    """The own prompts (``side`` 0) or the other ones (1), which ``styled`` gives three styles in turn."""
    said = [sentence(pair[side]) for pair in pairs]
    ways = list(sampling.STYLED.values())
    return [ways[n % len(ways)].format(one) for n, one in enumerate(said)] if styled else said


def injected(blocks: str, pairs: Sequence = PROMPTS, seed: int = 1, styled: bool = False) -> Tensor:
    """Every pair's own prompt with the other prompt in ``blocks``: an image ``128 128 3`` per pair."""
    if len(pairs) > sampling.TOGETHER:  # whole groups of three, so that the styles stay as they are
        size = sampling.TOGETHER // 3 * 3
        parts = [pairs[at : at + size] for at in range(0, len(pairs), size)]
        return torch.cat([injected(blocks, part, seed + 1000 * n, styled) for n, part in enumerate(parts)])
    base = sampling.model()
    conditioning: Any = sampling.together(sentences(0, pairs))
    if blocks:
        conditioning = change(base, sampling.together(sentences(1, pairs, styled)), blocks).on(conditioning)
    return sampling.paint(injection.prepare(base), conditioning, len(pairs), seed)


def share_of_other(images: Tensor, pairs: Sequence = PROMPTS) -> dict[str, float]:
    """How often the classifier sees the own prompt's shape and colour, and the other prompt's."""
    own = sampling.right(images, [pair[0] for pair in pairs])
    other = sampling.right(images, [pair[1] for pair in pairs])
    return {"own shape": own[0], "own colour": own[1], "other shape": other[0], "other colour": other[1]}


@functools.cache
def measured(blocks: str) -> dict[str, float]:
    return share_of_other(injected(blocks))


def arrived(images: Tensor, pairs: Sequence) -> dict[str, Tensor]:
    """Per image whether the own shape and colour are there, the other's shape, colour and style: ``n`` each."""
    names = list(sampling.STYLED)
    styles = [names[n % len(names)] for n in range(len(pairs))]
    own = sampling.hits(images, shape=[a[0] for a, _ in pairs], colour=[a[1] for a, _ in pairs])
    other = sampling.hits(
        images, shape=[b[0] for _, b in pairs], colour=[b[1] for _, b in pairs], style=styles
    )
    return {"own shape": own["shape"], "own colour": own["colour"], "other shape": other["shape"],
            "other colour": other["colour"], "other style": other["style"]}  # fmt: skip


def over_seeds(blocks: str, pairs: Sequence) -> tuple[dict[str, Tensor], Tensor]:
    """``arrived`` as the mean over the seeds, one value per pair; and the first seed's images."""
    runs = [injected(blocks, pairs, 1 + 100_000 * seed, styled=True) for seed in range(SEEDS)]
    each = [arrived(images, pairs) for images in runs]
    return {name: torch.stack([one[name] for one in each]).mean(0) for name in each[0]}, runs[0]


def run(out: Path) -> None:
    """Write ``block_roles.md`` and its images."""
    pairs = sampling.opposites(sampling.count(PAIRS), SEED)
    found, images = {}, {}
    for name, blocks in SETS.items():
        found[name], images[name] = over_seeds(blocks, pairs)
        print(name, {k: round(float(v.mean()), 3) for k, v in found[name].items()}, flush=True)
    some = sampling.opposites(sampling.count(SINGLE), SEED + 1)
    single = {block: arrived(injected(block, some, styled=True), some) for block in ATTENDING}
    base = sampling.model()
    own = sentences(0, some)
    plain = sampling.paint(base, own)
    moved: dict[str, Tensor] = {}
    halved: dict[str, dict[str, Tensor]] = {}
    for block in BLOCKS:
        painted = sampling.paint(scale_blocks(base, f"1, {block}={RATIO}")[0], own)
        moved[block] = (painted - plain).abs().mean((1, 2, 3))
        halved[block] = sampling.hits(painted, shape=[a[0] for a, _ in some], colour=[a[1] for a, _ in some])
    ends = {name: {k: pages.resampled(v) for k, v in values.items()} for name, values in found.items()}
    object_first = pages.apart(ends["fine"]["other shape"], ends["coarse and middle"]["other shape"])
    colour_later = pages.apart(ends["coarse"]["other colour"], ends["middle and fine"]["other colour"])
    style_later = pages.apart(ends["coarse"]["other style"], ends["middle and fine"]["other style"])
    claims = [
        ("the coarse and middle blocks carry the object, the fine ones do not.", object_first, "fine", "coarse and middle", "other shape"),
        ("the middle and fine blocks carry the colour, the coarse ones do not.", colour_later, "coarse", "middle and fine", "other colour"),
        ("the middle and fine blocks carry the style, the coarse ones do not.", style_later, "coarse", "middle and fine", "other style"),
    ]  # fmt: skip
    said = "\n\n".join(
        pages.verdict(claim, holds, f"The other prompt's {of.split()[1]} is in {pages.mean(found[high][of])} of the images with "
                      f"it in the {high} blocks, in {pages.mean(found[low][of])} with it in the {low} blocks.")
        for claim, holds, low, high, of in claims
    )  # fmt: skip
    kinds = list(found["none"])
    shown = list(range(min(9, len(pairs))))
    sheet = pages.grid(
        [[images[name][n] for n in shown] for name in SETS], [f"{pairs[n][0][1]} {pairs[n][0][0]}" for n in shown],
        [name.replace(" and ", "\nand ") for name in SETS], cell=128,
    )  # fmt: skip

    def mean_of(of: dict[str, dict[str, Tensor]], kind: str) -> list[float]:
        return [float(values[kind].mean()) for values in of.values()]

    def ends_of(of: dict[str, dict[str, Tensor]], kind: str) -> list[pages.Interval]:
        return [pages.resampled(values[kind]) for values in of.values()]

    others = kinds[2:]
    chart = pages.stack(
        [
            pages.bars(list(of), {k: mean_of(of, k) for k in names}, title, intervals={k: ends_of(of, k) for k in names})
            for of, names, title in (
                (found, others, "Another prompt in a set of blocks: what of it arrives"),
                (single, others, "Another prompt in one block alone: what of it arrives"),
                (halved, ["shape", "colour"], f"One block at {RATIO} of its weights: what is still right"),
            )
        ]
    )  # fmt: skip
    text = f"""# What a block does in the demo base model

**Question:** which blocks of the U-Net carry the object of a prompt, which its colour, which its style?

**Method, fixed before these images were sampled:** {len(pairs)} pairs of prompts whose shapes and colours differ, {SEEDS} seeds each,
{sampling.STEPS} steps of {sampling.SAMPLER}, guidance {sampling.GUIDANCE}, classified by the demo classifier. The own prompt names an object; the
other prompt names another one in another colour and in another style (crayon, mosaic, hatched in turn), and is used in one set of blocks.
The sets are by resolution: coarse ({COARSE}), middle ({MIDDLE}), fine ({FINE}). Intervals are 95 %, by resampling the pairs
(one without a width means that all pairs agree).
A claim holds if the two intervals that it compares are apart in its direction. One block alone: {len(some)} pairs, one seed.
Made by `python tools/study_demo_models.py blocks`.

{said}

![images](block_roles.jpg)

{pages.table(("blocks with the other prompt", *kinds), [(name, *(pages.mean(v[k]) for k in kinds)) for name, v in found.items()])}

![charts](block_roles_charts.png)

## Another prompt in one block

{pages.table(("block", *kinds), [(name, *(pages.mean(v[k]) for k in kinds)) for name, v in single.items()])}

## One block at {RATIO} of its weights

`moved` is the mean difference from the image of the whole model, of 1.

{pages.table(("block", "shape right", "colour right", "moved"), [
    (b, pages.mean(v["shape"]), pages.mean(v["colour"]), f"{float(moved[b].mean()):.3f}") for b, v in halved.items()])}
"""  # fmt: skip
    pages.write(out, "block_roles", text, {"block_roles.jpg": sheet, "block_roles_charts.png": chart})
