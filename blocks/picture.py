"""Pictures of block weights, laid out in the shape of the U: IN down the left, M00 below, OUT up the right."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .names import Layout
from .weights import BlockWeights, number_text

INK, PAPER, GRID = (32, 36, 44), (250, 250, 247), (214, 216, 220)
LOW, HIGH, BEYOND = (92, 134, 196), (222, 120, 66), (176, 52, 92)  # A's colour, B's colour, outside 0..1


def u_positions(layout: Layout) -> dict[str, tuple[int, int]]:
    """(column, row) of every block: IN in column 0, M00 in column 1 below both, OUT in column 2 from below."""
    rows = max(layout.inputs, layout.outputs)
    places = {f"IN{i:02}": (0, i) for i in range(layout.inputs)}
    places |= {f"OUT{i:02}": (2, rows - 1 - i) for i in range(layout.outputs)}
    if layout.middle:
        places["M00"] = (1, rows)
    return places


def draw_weights(weights: BlockWeights, row_height: int = 26, column_width: int = 190) -> np.ndarray:
    """The weights as bars in the shape of the U: float32 ``h w c`` in 0..1.

    A bar's length is its share of the range in use; it turns from A's blue to B's orange, and red outside 0..1.
    """
    layout = weights.layout
    places = u_positions(layout)
    margin = 16
    rows = max(row for _, row in places.values()) + 1
    size = (3 * column_width + 2 * margin, (rows + len(weights.extra)) * row_height + 2 * margin)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    low, high = min(0.0, *weights.values), max(1.0, *weights.values)
    entries = [(name, value, places[name]) for name, value in zip(layout.blocks, weights.values, strict=True)]
    entries += [(name, value, (1, rows + i)) for i, (name, value) in enumerate(weights.extra)]
    for name, value, (column, row) in entries:
        corner = (margin + column * column_width, margin + row * row_height)
        _bar(draw, corner, name, value, low, high, row_height, column_width)
    return np.asarray(image, dtype=np.float32) / 255


def _bar(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    name: str,
    value: float,
    low: float,
    high: float,
    row_height: int,
    column_width: int,
) -> None:
    left, top = corner
    font = ImageFont.load_default(size=row_height * 0.5)
    draw.text((left, top + row_height * 0.2), name, fill=INK, font=font)
    start, width = left + 62, column_width - 128
    zero = start + width * (0 - low) / (high - low)
    end = start + width * (value - low) / (high - low)
    draw.rectangle((start, top + 5, start + width, top + row_height - 6), fill=GRID)
    draw.rectangle((min(zero, end), top + 5, max(zero, end), top + row_height - 6), fill=_colour(value))
    text = number_text(round(value, 3))
    draw.text((start + width + 6, top + row_height * 0.2), text, fill=INK, font=font)


def _colour(value: float) -> tuple[int, int, int]:
    if not 0 <= value <= 1:
        return BEYOND
    red, green, blue = (round(a + (b - a) * value) for a, b in zip(LOW, HIGH, strict=True))
    return red, green, blue
