"""The effect of thresholding on saturation, measured on images and drawn as histograms."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..blocks.drawing import GRID, PAPER, SERIES, curve, write

WIDTH, HEIGHT, MARGIN, LINE = 512, 150, 12, 16
BINS = 64
CHANNELS = {"red": (216, 70, 60), "green": (70, 160, 80), "blue": (66, 110, 216)}
END = 1 / 512  # within half an 8-bit step of black or full


class Measures(NamedTuple):
    """Means over a batch: fractions of values at both ends of the range, HSV saturation, standard deviation."""

    dark_end: float
    bright_end: float
    saturation: float
    contrast: float


def measure(images: Tensor) -> Measures:
    """Measure images (``b h w c`` in [0, 1])."""
    rgb = images[..., :3].float().clamp(0, 1)
    value = rgb.amax(-1)
    saturation = torch.where(value > 0, (value - rgb.amin(-1)) / value.clamp_min(1e-6), 0.0)
    return Measures(
        dark_end=(rgb <= END).float().mean().item(),
        bright_end=(rgb >= 1 - END).float().mean().item(),
        saturation=saturation.mean().item(),
        contrast=rgb.std(dim=(1, 2)).mean().item(),
    )


def text(measures: dict[str, Measures]) -> str:
    """The measures as text, one line per batch."""
    return "\n".join(f"{label}: {_words(found)}" for label, found in measures.items())


def draw(images: dict[str, Tensor], measures: dict[str, Measures]) -> Tensor:
    """Histograms of each batch above each other, as an IMAGE (``1 h w 3``)."""
    block = LINE * 2 + HEIGHT + MARGIN
    canvas = Image.new("RGB", (WIDTH + 2 * MARGIN, block * len(images) + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    for row, (label, batch) in enumerate(images.items()):
        top = MARGIN + row * block
        write(pen, (MARGIN, top), f"{label}: {_words(measures[label])}", 11)
        _histogram(pen, batch[..., :3].float().clamp(0, 1), top + LINE)
        write(pen, (MARGIN, top + LINE + HEIGHT + 1), "0", 11)
        write(pen, (MARGIN + WIDTH - 6, top + LINE + HEIGHT + 1), "1", 11)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)[None]


def _words(found: Measures) -> str:
    return (
        f"{found.dark_end:.1%} at 0, {found.bright_end:.1%} at 1, "
        f"saturation {found.saturation:.3f}, contrast {found.contrast:.3f}"
    )


def _histogram(pen: ImageDraw.ImageDraw, rgb: Tensor, top: int) -> None:
    pen.rectangle((MARGIN, top, MARGIN + WIDTH, top + HEIGHT), outline=GRID)
    counts = [torch.histc(rgb[..., channel], BINS, 0, 1) for channel in range(3)]
    tallest = max(count.max().item() for count in counts) or 1.0
    step = WIDTH / BINS
    for number, (count, (name, colour)) in enumerate(zip(counts, CHANNELS.items(), strict=True)):
        heights = (count / tallest).sqrt() * (HEIGHT - 4)  # square root: small bins stay visible
        points = [
            (MARGIN + (index + 0.5) * step, top + HEIGHT - height)
            for index, height in enumerate(heights.tolist())
        ]
        curve(pen, points, colour, SERIES[number][1])
        left, y = MARGIN + 8 + 70 * number, top + 9
        curve(pen, [(left, y), (left + 24, y)], colour, SERIES[number][1])
        write(pen, (left + 28, y), name, 11, anchor="lm")
