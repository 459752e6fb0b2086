"""Plots of a concept: the density of its tokens over the vocabulary's band, and the loss of its training."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..blocks.drawing import GRID, HIGH, LOW, PAPER, as_array, write
from .concept import LAYERS
from .density import Reading

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 50, 60


def draw_density(reading: Reading, title: str, keys: Sequence[str] = LAYERS) -> np.ndarray:
    """Log density of every token over its layer: float32 ``h w c`` in 0..1; tokens below the band are orange squares."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    values = [value for layer in reading.values for value in layer]
    low, high = min(reading.low, *values), max(reading.high, *values)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def height(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    write(draw, (LEFT, 16), title, 16)
    draw.rectangle((LEFT, height(reading.high), WIDTH - RIGHT, height(reading.low)), fill=GRID)
    for value in (reading.low, reading.high):
        write(draw, (8, height(value) - 8), f"{value:.0f}", 14)
    step = (WIDTH - LEFT - RIGHT) / len(reading.values)
    for layer, tokens in enumerate(reading.values):
        centre = LEFT + (layer + 0.5) * step
        write(draw, (centre - 20, HEIGHT - BOTTOM + 10), keys[layer], 14)
        for number, value in enumerate(tokens):
            x = centre + (number - (len(tokens) - 1) / 2) * 12
            inside = value >= reading.low
            colour, dot = LOW if inside else HIGH, (x - 5, height(value) - 5, x + 5, height(value) + 5)
            draw.line((x, HEIGHT - BOTTOM, x, height(value)), fill=colour)
            (draw.ellipse if inside else draw.rectangle)(dot, fill=colour)
    note = f"grey: 5 % to 95 % of the vocabulary's own tokens; bandwidth {reading.bandwidth:.4g}"
    write(draw, (LEFT, HEIGHT - 26), note, 14)
    return as_array(image)


def density_text(reading: Reading, title: str, keys: Sequence[str] = LAYERS) -> str:
    """The same as lines of text."""
    lines = [
        f"{title}: log density per token; the vocabulary's own lie between {reading.low:.1f} and {reading.high:.1f}"
    ]
    for layer, tokens in zip(keys, reading.values, strict=True):
        marks = (f"{value:.1f}{'' if value >= reading.low else ' (unlike any word)'}" for value in tokens)
        lines.append(f"{layer}: {', '.join(marks)}")
    return "\n".join(lines)


def draw_losses(losses: Sequence[float], steps: int) -> Image.Image:
    """The loss over the steps, and its mean over a tenth of them, of a run of ``steps``."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    span = max(1, steps // 10)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    means = ((sums[ends] - sums[np.maximum(0, ends - span)]) / np.minimum(ends, span)).tolist()
    low, high = min(losses), max(losses)
    scale = (HEIGHT - TOP - BOTTOM) / (high - low or 1.0)

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        step = (WIDTH - LEFT - RIGHT) / max(1, steps - 1)
        return [(LEFT + n * step, TOP + (high - value) * scale) for n, value in enumerate(values)]

    write(draw, (LEFT, 16), f"loss {means[-1]:.4g} at step {len(losses)} of {steps}", 14)
    for value in {low, high}:
        write(draw, (8, TOP + (high - value) * scale - 8), f"{value:.4g}", 14)
    draw.line(points(losses), fill=GRID, width=1)
    draw.line(points(means), fill=LOW, width=3)
    write(draw, (LEFT, HEIGHT - 26), f"thick: mean of the last {span} steps", 14)
    return image
