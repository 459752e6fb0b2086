"""Images of comparisons: the blocks in two columns, of a U-Net in the shape of the U, each with a bar."""

import math

from PIL import Image, ImageDraw

from ...blocks.drawing import INK, PAPER, write
from ...blocks.names import MIDDLE, Layout
from .comparison import Comparison

ROW, LABEL, BAR, GAP, TOP, NUMBER = 26, 74, 250, 40, 84, 64
FRAME = (200, 200, 196)
NEAR, FAR = (70, 130, 180), (200, 70, 50)
MEASURES = {"distance": "relative distance |B - A| / |A|", "cosine": "cosine similarity"}


def draw(comparison: Comparison, measure: str = "distance") -> Image.Image:
    """IN down on the left, OUT up on the right, M00 and what is outside the blocks below; longer bars differ more.

    Blocks of a transformer run down in two columns.

    ``distance`` bars are scaled to the largest one; ``cosine`` bars show 1 - cosine the same way, with the
    cosine written beside.
    """
    if measure not in MEASURES:
        raise ValueError(f"The measure is {measure!r}. Available: {', '.join(MEASURES)}.")
    blocks, layout = comparison.blocks, comparison.layout
    left, right = _columns(layout)
    outside = [name for name in blocks if name not in layout.blocks]
    below = [MIDDLE, *outside] if layout.middle else outside
    rows = max(len(left), len(right))
    column = LABEL + BAR + GAP
    image = Image.new("RGB", (2 * column + GAP, TOP + (rows + len(below) + 1) * ROW), PAPER)
    pen = ImageDraw.Draw(image)
    write(pen, (GAP // 2, 12), f"A: {comparison.names[0]}", 14)
    write(pen, (GAP // 2, 32), f"B: {comparison.names[1]}", 14)
    write(pen, (GAP // 2, 54), MEASURES[measure], 14)
    values = {name: _value(comparison, name, measure) for name in blocks}
    largest = max([bar for bar, _ in values.values() if bar < math.inf], default=0.0) or 1.0
    places = [(name, GAP // 2, TOP + i * ROW) for i, name in enumerate(left)]
    places += [(name, GAP // 2 + column, TOP + i * ROW) for i, name in enumerate(right)]
    places += [
        (name, GAP // 2 + column // 2, TOP + (rows + i) * ROW + ROW // 2) for i, name in enumerate(below)
    ]
    for name, x, y in places:
        bar, text = values.get(name, (0.0, "-"))
        share = min(1.0, bar / largest)
        colour = tuple(round(n + (f - n) * share) for n, f in zip(NEAR, FAR, strict=True))
        write(pen, (x, y + 3), name, 14)
        pen.rectangle((x + LABEL, y + 3, x + LABEL + BAR, y + ROW - 4), outline=FRAME)
        pen.rectangle((x + LABEL, y + 3, x + LABEL + round(BAR * share), y + ROW - 4), fill=colour)
        inside = BAR * share > NUMBER  # the number stands on the bar, not beside it
        write(pen, (x + LABEL + 6, y + 4), text, 14, PAPER if inside else INK)
    return image


def _columns(layout: Layout) -> tuple[list[str], list[str]]:
    """The blocks of the left and of the right column."""
    if layout.is_unet:
        left = [name for name in layout.blocks if name.startswith("IN")]
        return left, [name for name in reversed(layout.blocks) if name.startswith("OUT")]
    half = (len(layout.blocks) + 1) // 2
    return list(layout.blocks[:half]), list(layout.blocks[half:])


def _value(comparison: Comparison, name: str, measure: str) -> tuple[float, str]:
    """Length of the bar and the number beside it."""
    found = comparison.blocks[name]
    if measure == "cosine":
        return max(0.0, 1 - found.cosine), f"{found.cosine:.5f}"
    return found.relative, f"{found.relative:.5f}"
