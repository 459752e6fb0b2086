"""The page ``docs/studies/search.md`` from finished runs of ``study_search``: tables, charts of the best score so far, images."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from scipy.stats import t as student
from torch import Tensor

from . import pages

INK, GREY, FAINT = pages.INK, (110, 110, 110), pages.FAINT
COLOURS = {"TPE": (0, 114, 178), "CMA-ES": (230, 159, 0), "random": (204, 121, 167)}  # of Okabe and Ito
NAMES = {
    "groups": "5 groups (two of IN, M00, two of OUT)",
    "blocks": "25 blocks",
}


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean; infinite for one value."""
    if len(values) < 2:
        return math.inf
    return float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4f} +- {half_width(values):.4f}"


def best_so_far(scores: Sequence[float]) -> list[float]:
    found, best = [], -math.inf
    for score in scores:
        best = max(best, score)
        found.append(best)
    return found


def chart(
    title: str, curves: Mapping[str, Sequence[Sequence[float]]], level: float, named: str
) -> Image.Image:
    """Mean over the seeds of the best score so far, with the band of its 95 % interval; ``level`` is the best preset."""
    width, height, left, top, foot = 760, 330, 74, 40, 92
    trials = len(next(iter(curves.values()))[0])
    means = {name: [[run[n] for run in runs] for n in range(trials)] for name, runs in curves.items()}
    low = min(level, *(statistics.fmean(points[4]) for points in means.values())) - 0.005
    high = (
        max(level, *(statistics.fmean(points[-1]) + half_width(points[-1]) for points in means.values()))
        + 0.003
    )
    sheet = Image.new("RGB", (width, top + height + foot), pages.PAPER)

    def place(trial: float, score: float) -> tuple[float, float]:
        share = min(max((score - low) / (high - low), 0), 1)
        return left + (width - left - 20) * trial / trials, top + height * (1 - share)

    bands = Image.new("RGBA", sheet.size, (0, 0, 0, 0))
    for name, points in means.items():
        layer = Image.new("RGBA", sheet.size, (0, 0, 0, 0))
        edge = [
            place(n + 1, statistics.fmean(values) + half_width(values)) for n, values in enumerate(points)
        ]
        under = [
            place(n + 1, statistics.fmean(values) - half_width(values)) for n, values in enumerate(points)
        ]
        ImageDraw.Draw(layer).polygon([*edge, *reversed(under)], fill=(*COLOURS[name], 46))
        bands = Image.alpha_composite(bands, layer)
    pen = ImageDraw.Draw(sheet)
    for tick in range(6):
        score = low + (high - low) * tick / 5
        y = place(0, score)[1]
        pen.line((left, y, width - 20, y), FAINT)
        pen.text((left - 8, y), f"{score:.3f}", INK, pages.font(13), anchor="rm")
    sheet.paste(bands, (0, 0), bands)
    for trial in range(0, trials + 1, 25):
        pen.text((place(trial, low)[0], top + height + 12), str(trial), INK, pages.font(13), anchor="mm")
    for name, points in means.items():
        line = [place(n + 1, statistics.fmean(values)) for n, values in enumerate(points)]
        pen.line(line, COLOURS[name], 3)
    y = place(0, level)[1]
    for x in range(left, width - 20, 12):
        pen.line((x, y, x + 6, y), GREY, 2)
    pen.text((left, 16), title, INK, pages.font(16), anchor="lm")
    pen.text((left + (width - left) / 2, top + height + 34), "trial", INK, pages.font(14), anchor="mm")
    label = Image.new("RGB", (height, 18), pages.PAPER)
    ImageDraw.Draw(label).text((height / 2, 9), "best score so far", INK, pages.font(14), anchor="mm")
    sheet.paste(label.rotate(90, expand=True), (2, top))
    x, y = left, top + height + 66
    for name in curves:
        pen.line((x, y, x + 22, y), COLOURS[name], 4)
        pen.text((x + 30, y), name, INK, pages.font(14), anchor="lm")
        x += 110
    pen.line((x, y, x + 6, y), GREY, 2)
    pen.line((x + 12, y, x + 18, y), GREY, 2)
    pen.text((x + 30, y), f"best preset ({named})", INK, pages.font(14), anchor="lm")
    return sheet


def typical(runs: Sequence[Any], scorer: Any, cases: list) -> str:
    """The weights of the run whose hold-out score is the median."""
    ranked = sorted(runs, key=lambda run: scorer.score(run.best, cases))
    return ranked[len(ranked) // 2].best


def write(
    out: Path, runs: Mapping[tuple[str, str], Sequence[Any]], tried: Mapping[str, tuple[float, float]],
    scorer: Any, study: Any, verdict: str,
) -> None:  # fmt: skip
    """Write the page, its chart and its images; ``study`` is the module with the method."""
    preset, (level, held) = next(iter(tried.items()))
    spaces = list(dict.fromkeys(space for space, _ in runs))
    seeds = min(len(found) for found in runs.values())
    rows, differences, wins = [], [], []
    shown: list[tuple[str, str]] = [("A", "0"), ("B", "1"), (f"best preset\n{preset}", preset)]
    for space in spaces:
        holdouts = {}
        for sampler in study.SAMPLERS:
            found = runs[space, sampler]
            search = [max(run.scores) for run in found]
            holdouts[sampler] = [scorer.score(run.best, study.HOLDOUT) for run in found]
            parts = [scorer.parts(run.best, study.HOLDOUT) for run in found]
            rows.append(
                (
                    NAMES[space],
                    sampler,
                    mean(search),
                    mean(holdouts[sampler]),
                    *(statistics.fmean(part[n] for part in parts) for n in range(3)),
                )
            )
            shown.append((f"{sampler}\n{space}", typical(found, scorer, study.HOLDOUT)))
        chance = [max(run.scores) for run in runs[space, "random"]]
        for sampler in study.SAMPLERS:
            against = [("best preset", [held] * seeds)]
            if sampler != "random":
                against.insert(0, ("random", holdouts["random"]))
                wins.append(
                    (
                        NAMES[space],
                        sampler,
                        f"{sum(max(run.scores) > other for run, other in zip(runs[space, sampler], chance, strict=True))} of {seeds}",
                    )
                )
            for name, others in against:
                paired = [a - b for a, b in zip(holdouts[sampler], others, strict=True)]
                gap, half = statistics.fmean(paired), half_width(paired)
                differences.append(
                    (
                        NAMES[space],
                        f"{sampler} - {name}",
                        f"{gap:+.4f} +- {half:.4f}",
                        "yes" if abs(gap) > half else "no",
                    )
                )
    names = {"0": "A (weights 0)", "1": "B (weights 1)"}
    table = [(names.get(name, name), *pair) for name, pair in list(tried.items())[:6]]
    table += [(names[name], *tried[name]) for name in ("0", "1") if name not in list(tried)[:6]]
    charts = [
        chart(f"Search for block weights, {NAMES[space].partition(' (')[0]}: mean of {seeds} seeds, band: 95 % interval",
              {sampler: [best_so_far(run.scores) for run in runs[space, sampler]] for sampler in study.SAMPLERS}, level, preset)
        for space in spaces
    ]  # fmt: skip
    cases = study.HOLDOUT[:8]
    images: list[Tensor] = [scorer.painter.paint(weights, cases) for _, weights in shown]
    sheet = pages.grid(
        [list(found) for found in images], [f"{c[1]} {c[0]}" for c in cases], [title for title, _ in shown]
    )
    method = study.__doc__.partition("- Goal:")[2].partition("FOLDER keeps")[0].strip()
    text = f"""# Which sampler finds block weights, and is a search worth it

{verdict}

## Question
Block weights for *B's style with A's shapes and colours*: does an optimiser find better ones than random tries and than the
presets, with equal numbers of trials, and does the gain hold on prompts it has not seen? Which sampler, and how many free numbers?

## Method, fixed before any result was looked at
- Goal: {method}

The plan was ten seeds. The time set for the run ({study.PLANNED}) was enough for {seeds}, which all samplers finished in both spaces; the others are not used.

## Result
{pages.table(("space", "sampler", "search score", "hold-out score", "style", "shape", "colour"), rows)}

Mean over the {seeds} seeds +- half of the 95 % interval; style, shape and colour are the parts of the hold-out score.

{pages.table(("preset", "search score", "hold-out score"), [(name, f"{a:.4f}", f"{b:.4f}") for name, a, b in table])}

The presets with the best search scores, of {len(tried) - 2}, and the two models alone. They need one image per prompt each and no search.

{pages.table(("space", "hold-out difference, paired by seed", "mean", "interval excludes 0"), differences)}

{pages.table(("space", "sampler", "search score above random"), wins)}

![Best score so far over the trials, for five groups and for 25 blocks](search_charts.png)

![Images of A, B, the best preset and the median result of each search on hold-out prompts](search.jpg)

Hold-out prompts with their seeds, the same in each row. The rows of the searches are the seed whose hold-out score is the median.

Remade by `python tools/demo_models/study_search.py FOLDER --page`.
"""
    text = text.replace(" +- ", " \N{PLUS-MINUS SIGN} ")
    pages.write(out, "search", text, {"search.jpg": sheet, "search_charts.png": pages.stack(charts)})
