"""The density read-out of an XTI as a picture: one column per layer, the vocabulary's band behind."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..blocks.drawing import GRID, HIGH, INK, LOW, PAPER
from .density import Reading
from .xti import LAYERS

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 50, 60


def draw_density(reading: Reading, title: str) -> np.ndarray:
    """Log density of every token over its layer: float32 ``h w c`` in 0..1; tokens below the band are red."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=14)
    values = [value for layer in reading.values for value in layer]
    low, high = min(reading.low, *values), max(reading.high, *values)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def height(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    draw.text((LEFT, 16), title, fill=INK, font=ImageFont.load_default(size=16))
    draw.rectangle((LEFT, height(reading.high), WIDTH - RIGHT, height(reading.low)), fill=GRID)
    for value in (reading.low, reading.high):
        draw.text((8, height(value) - 8), f"{value:.0f}", fill=INK, font=font)
    step = (WIDTH - LEFT - RIGHT) / len(reading.values)
    for layer, tokens in enumerate(reading.values):
        centre = LEFT + (layer + 0.5) * step
        draw.text((centre - 20, HEIGHT - BOTTOM + 10), LAYERS[layer], fill=INK, font=font)
        for number, value in enumerate(tokens):
            x = centre + (number - (len(tokens) - 1) / 2) * 12
            colour = LOW if value >= reading.low else HIGH
            draw.line((x, HEIGHT - BOTTOM, x, height(value)), fill=colour)
            draw.ellipse((x - 5, height(value) - 5, x + 5, height(value) + 5), fill=colour)
    note = f"grey: 5 % to 95 % of the vocabulary's own tokens; bandwidth {reading.bandwidth:.4g}"
    draw.text((LEFT, HEIGHT - 26), note, fill=INK, font=font)
    return np.asarray(image, dtype=np.float32) / 255


def density_text(reading: Reading, title: str) -> str:
    """The same as lines of text."""
    lines = [
        f"{title}: log density per token; the vocabulary's own lie between {reading.low:.1f} and {reading.high:.1f}"
    ]
    for layer, tokens in zip(LAYERS, reading.values, strict=True):
        marks = (f"{value:.1f}{'' if value >= reading.low else ' (unlike any word)'}" for value in tokens)
        lines.append(f"{layer}: {', '.join(marks)}")
    return "\n".join(lines)
