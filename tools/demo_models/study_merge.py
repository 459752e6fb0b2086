"""What becomes of a style when its fine-tune is merged into the base: by ratio, by preset, by half of the U-Net."""

from collections.abc import Sequence
from pathlib import Path

import blockwork.demo_models.host as demo_models
from blockwork.merge.live.host import merge_models
from torch import Tensor

from . import pages, sampling
from .study_blocks import PROMPTS, sentence

RATIOS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
WAYS = {
    "GRAD_V": "GRAD_V", "GRAD_A": "GRAD_A", "WRAP14": "WRAP14", "MID12_50": "MID12_50",
    "RING10_5": "RING10_5", "down half": "1, OUT00-OUT11=0, M00=0", "up half": "0, OUT00-OUT11=1",
    "middle": "0, IN06-IN11=1, M00=1, OUT00-OUT05=1", "outside": "1, IN06-IN11=0, M00=0, OUT00-OUT05=0",
}  # fmt: skip
THINGS = [own for own, _ in PROMPTS]
COUNT, SEED = 24, 30
KINDS = ("style", "shape", "colour")


def painted(style: str, weights: str, things: Sequence[tuple[str, str]] = THINGS) -> Tensor:
    """Every object on base and ``style`` merged: an image ``128 128 3`` each."""
    merged = merge_models(sampling.model("base"), sampling.model(style), weights)[0]
    return sampling.paint(merged, [sentence(thing) for thing in things])


def each(style: str, images: Tensor, things: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Per image the probability of the style, and whether shape and colour are right."""
    right = sampling.hits(images, shape=[s for s, _ in things], colour=[c for _, c in things])
    return {"style": demo_models.judge(images).chance_of("style", style), **right}


def scores(style: str, images: Tensor, things: Sequence[tuple[str, str]] = THINGS) -> dict[str, float]:
    """The means of ``each``."""
    return {name: float(values.mean()) for name, values in each(style, images, things).items()}


def run(out: Path) -> None:
    """Write ``merge_paths.md`` and its images."""
    known = sampling.pairs(held_out=False)
    things = [known[(7 * n) % len(known)] for n in range(sampling.count(COUNT))]
    charts, sheets, tables, claims = [], [], [], []
    for style in ("ink", "night"):
        along = {ratio: painted(style, str(ratio), things) for ratio in RATIOS}
        curve = {ratio: each(style, images, things) for ratio, images in along.items()}
        ends = {name: [pages.resampled(one[name]) for one in curve.values()] for name in KINDS}
        charts.append(
            pages.lines(RATIOS, {name: [float(c[name].mean()) for c in curve.values()] for name in KINDS},
                        f"Base and {style}, one ratio for all blocks", "ratio", "style: probability, others: share", intervals=ends)
        )  # fmt: skip
        shown = (0, 1, 2)
        sheets.append(
            pages.grid([[along[ratio][min(n, len(things) - 1)] for ratio in RATIOS] for n in shown],
                       [f"{ratio:g}" for ratio in RATIOS],
                       [f"{style}:\n{things[min(n, len(things) - 1)][1]} {things[min(n, len(things) - 1)][0]}" for n in shown], cell=128)
        )  # fmt: skip
        ways = {name: each(style, painted(style, weights, things), things) for name, weights in WAYS.items()}
        charts.append(
            pages.bars(list(ways), {name: [float(w[name].mean()) for w in ways.values()] for name in KINDS},
                       f"Base and {style}, by preset and by part of the U-Net", "style: probability, others: share",
                       intervals={name: [pages.resampled(w[name]) for w in ways.values()] for name in KINDS})
        )  # fmt: skip
        tables.append(
            f"## {style}\n\n"
            + pages.table(("ratio", "style", "shape right", "colour right"),
                          [(f"{r:g}", *(pages.mean(c[name]) for name in KINDS)) for r, c in curve.items()])
            + "\n\n"
            + pages.table(("blocks of the fine-tune", "style", "shape right", "colour right"),
                          [(f"{name} (`{WAYS[name]}`)" if name != WAYS[name] else name, *(pages.mean(w[k]) for k in KINDS))
                           for name, w in ways.items()])
            + "\n"
        )  # fmt: skip
        between = pages.apart(pages.resampled(curve[0.0]["style"]), pages.resampled(curve[0.5]["style"]))
        less = pages.apart(pages.resampled(curve[0.5]["style"]), pages.resampled(curve[1.0]["style"]))
        claims.append(
            pages.verdict(
                f"half of base and half of {style} is between the two in style.",
                True if between and less else (False if between is False or less is False else None),
                f"The style is {pages.mean(curve[0.0]['style'])} at 0, {pages.mean(curve[0.5]['style'])} at 0.5, "
                f"{pages.mean(curve[1.0]['style'])} at 1.",
            )
        )
        claims.append(
            pages.verdict(
                f"the OUT half of the U-Net carries more of {style} than the IN half.",
                pages.apart(
                    pages.resampled(ways["down half"]["style"]), pages.resampled(ways["up half"]["style"])
                ),
                f"The style is {pages.mean(ways['up half']['style'])} with the OUT blocks of the fine-tune, "
                f"{pages.mean(ways['down half']['style'])} with its IN blocks.",
            )
        )
    text = f"""# Merging a style into the demo base model

**Question:** how does a merge go from one style to another, and which part of the U-Net carries a style?

**Method, fixed before these images were sampled:** {len(things)} prompts of known pairs, one image each, {sampling.STEPS} steps of
{sampling.SAMPLER}, guidance {sampling.GUIDANCE}. `style` is the demo classifier's mean probability of the fine-tune's style. Intervals are
95 %, by resampling the prompts. A claim holds if the intervals that it compares are apart in its direction.
Before, eight images each had shown that the first fine-tunes did not reach their styles; these are trained longer and at a higher rate.
Made by `python tools/study_demo_models.py merge`.

{(chr(10) * 2).join(claims)}

![images](merge_paths.jpg)

![charts](merge_paths_charts.png)

{chr(10).join(tables)}
"""
    pages.write(out, "merge_paths", text,
                {"merge_paths.jpg": pages.stack(sheets), "merge_paths_charts.png": pages.stack(charts)})  # fmt: skip
