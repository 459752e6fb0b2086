"""The density read-out of an XTI as a picture: one column per layer, the vocabulary's band behind."""

import numpy as np
from PIL import Image, ImageDraw

from ..blocks.drawing import GRID, HIGH, LOW, PAPER, as_array, write
from .density import Reading
from .xti import LAYERS

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 50, 60


def draw_density(reading: Reading, title: str) -> np.ndarray:
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
        write(draw, (centre - 20, HEIGHT - BOTTOM + 10), LAYERS[layer], 14)
        for number, value in enumerate(tokens):
            x = centre + (number - (len(tokens) - 1) / 2) * 12
            inside = value >= reading.low
            colour, dot = LOW if inside else HIGH, (x - 5, height(value) - 5, x + 5, height(value) + 5)
            draw.line((x, HEIGHT - BOTTOM, x, height(value)), fill=colour)
            (draw.ellipse if inside else draw.rectangle)(dot, fill=colour)
    note = f"grey: 5 % to 95 % of the vocabulary's own tokens; bandwidth {reading.bandwidth:.4g}"
    write(draw, (LEFT, HEIGHT - 26), note, 14)
    return as_array(image)


def density_text(reading: Reading, title: str) -> str:
    """The same as lines of text."""
    lines = [
        f"{title}: log density per token; the vocabulary's own lie between {reading.low:.1f} and {reading.high:.1f}"
    ]
    for layer, tokens in zip(LAYERS, reading.values, strict=True):
        marks = (f"{value:.1f}{'' if value >= reading.low else ' (unlike any word)'}" for value in tokens)
        lines.append(f"{layer}: {', '.join(marks)}")
    return "\n".join(lines)
