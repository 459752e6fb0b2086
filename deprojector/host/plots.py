"""Line plots as ComfyUI images, drawn with PIL."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...blocks.drawing import INK, SERIES, curve, write

SIZE = (960, 540)
MARGIN = (78, 66, 24, 60)  # left, top, right, bottom
GREY, LIGHT = (110, 110, 110), (226, 226, 226)
SMALL, LARGE = 14, 18

Points = Sequence[tuple[float, float]]


def line_plot(
    series: Mapping[str, Points],
    title: str,
    axes: tuple[str, str],
    span: tuple[float, float] | None = None,
) -> Tensor:
    """An image ``1 h w 3`` in 0..1 of one line per series; points that are not finite break the line.

    ``span`` fixes the range of the vertical axis; points outside are drawn at its edge.
    """
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    across = _range([x for x, _ in points], None)
    up = _range([y for _, y in points], span)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - across[0]) / (across[1] - across[0]) * (right - left),
            bottom - (min(max(y, up[0]), up[1]) - up[0]) / (up[1] - up[0]) * (bottom - top),
        )

    for value in _ticks(up):
        _, y = place(across[0], value)
        draw.line((left, y, right, y), fill=LIGHT)
        write(draw, (left - 8, y), f"{value:.4g}", SMALL, GREY, "rm")
    for value in _ticks(across):
        x, _ = place(value, up[0])
        write(draw, (x, bottom + 8), f"{value:.4g}", SMALL, GREY, "mt")
    draw.rectangle((left, top, right, bottom), outline=GREY)
    write(draw, (10, 10), title, LARGE)
    write(draw, ((left + right) / 2, SIZE[1] - 14), axes[0], SMALL, INK, "ms")
    write(draw, (10, top - 8), axes[1], SMALL, INK, "lb")
    for number, (name, line) in enumerate(series.items()):
        colour, dashes = SERIES[number % len(SERIES)]
        for finite, part in itertools.groupby(line, lambda point: math.isfinite(point[1])):
            if finite:
                curve(draw, [place(*point) for point in part], colour, dashes)
        if len(line) == 1 and math.isfinite(line[0][1]):
            x, y = place(*line[0])
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        y = top + 16 + 18 * number
        curve(draw, [(right - 44, y), (right - 8, y)], colour, dashes)
        write(draw, (right - 52, y), name, SMALL, INK, "rm")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _range(values: Sequence[float], fixed: tuple[float, float] | None) -> tuple[float, float]:
    if fixed:
        return fixed
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(span: tuple[float, float], wanted: int = 6) -> list[float]:
    """Round numbers within the range, about as many as wanted."""
    raw = (span[1] - span[0]) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(span[0] / step - 1e-9)
    return [k * step for k in range(first, math.floor(span[1] / step + 1e-9) + 1)]
