"""What becomes of a style when its fine-tune is merged into the base: by ratio, by preset, by half of the U-Net."""

from collections.abc import Sequence
from pathlib import Path

import blockwork.demo_models.host as demo_models
from blockwork.merge.live.host import merge_models
from torch import Tensor

from . import pages, sampling
from .study_blocks import PROMPTS, sentence

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WAYS = {
    "GRAD_V": "GRAD_V", "GRAD_A": "GRAD_A", "WRAP14": "WRAP14", "MID12_50": "MID12_50",
    "RING10_5": "RING10_5", "down half": "1, OUT00-OUT11=0, M00=0", "up half": "0, OUT00-OUT11=1",
    "middle": "0, IN06-IN11=1, M00=1, OUT00-OUT05=1", "outside": "1, IN06-IN11=0, M00=0, OUT00-OUT05=0",
}  # fmt: skip
THINGS = [own for own, _ in PROMPTS]


def painted(style: str, weights: str, things: Sequence[tuple[str, str]] = THINGS) -> Tensor:
    """Every thing on base and ``style`` merged: a picture ``64 64 3`` each."""
    merged = merge_models(sampling.model("base"), sampling.model(style), weights)[0]
    return sampling.paint(merged, [sentence(thing) for thing in things])


def scores(style: str, pictures: Tensor, things: Sequence[tuple[str, str]] = THINGS) -> dict[str, float]:
    """Mean probability of the style, and how often shape and colour are right, over all pictures."""
    shape, colour = sampling.right(pictures, things)
    chance = float(demo_models.judge(pictures).chance_of("style", style).mean())
    return {"style": chance, "shape": shape, "colour": colour}


def run(out: Path) -> None:
    """Write ``merge_paths.md`` and its pictures."""
    charts, sheets, tables = [], [], []
    for style in ("ink", "night"):
        along = {ratio: painted(style, str(ratio)) for ratio in RATIOS}
        curve = [scores(style, along[ratio]) for ratio in RATIOS]
        charts.append(
            pages.lines(RATIOS, {name: [c[name] for c in curve] for name in curve[0]},
                        f"Base and {style}, one ratio for all blocks", "ratio")
        )  # fmt: skip
        shown = RATIOS[::2]
        sheets.append(
            pages.grid([[along[ratio][n] for ratio in shown] for n in (0, 3, 7)],
                       [f"{ratio:g}" for ratio in shown], [f"{style}: {t[1]} {t[0]}".replace(": ", ":\n") for t in (THINGS[0], THINGS[3], THINGS[7])])
        )  # fmt: skip
        ways = {name: scores(style, painted(style, weights)) for name, weights in WAYS.items()}
        tables.append(
            f"## {style}\n\n"
            + pages.table(("ratio", "style", "shape right", "colour right"),
                          [(f"{r:g}", *c.values()) for r, c in zip(RATIOS, curve, strict=True)])
            + "\n\n"
            + pages.table(("blocks of the fine-tune", "style", "shape right", "colour right"),
                          [(f"{name} (`{WAYS[name]}`)" if name != WAYS[name] else name, *w.values()) for name, w in ways.items()])
        )  # fmt: skip
        charts.append(
            pages.bars(list(ways), {name: [w[name] for w in ways.values()] for name in ("style", "shape", "colour")},
                       f"Base and {style}, by preset and by part of the U-Net")
        )  # fmt: skip
    text = f"""# Merging a style into the demo base model

`style` is the demo classifier's mean probability that the image is in the fine-tune's style; {len(THINGS)} prompts,
one image each, {sampling.STEPS} steps of {sampling.SAMPLER}, guidance {sampling.GUIDANCE}.
Made by `python tools/study_demo_models.py merge`.

![images](merge_paths.jpg)

![charts](merge_paths_charts.png)

{chr(10).join(tables)}
"""
    pages.write(out, "merge_paths", text,
                {"merge_paths.jpg": pages.stack(sheets), "merge_paths_charts.png": pages.stack(charts)})  # fmt: skip
