"""Pictures of comparisons: the blocks in the shape of the U, each with a bar."""

from PIL import Image, ImageDraw

from ...blocks.drawing import INK, PAPER, font
from ...blocks.names import MIDDLE
from .comparison import Comparison

ROW, LABEL, BAR, GAP, TOP, NUMBER = 26, 74, 250, 40, 84, 64
FRAME = (200, 200, 196)
NEAR, FAR = (70, 130, 180), (200, 70, 50)
MEASURES = {"distance": "relative distance |B - A| / |A|", "cosine": "cosine similarity"}


def draw(comparison: Comparison, measure: str = "distance") -> Image.Image:
    """The U: IN down the left, OUT up the right, M00 and what stands apart below; longer bars differ more.

    ``distance`` bars are scaled to the largest one; ``cosine`` bars show 1 - cosine the same way, with the
    cosine written beside.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is one of {', '.join(MEASURES)}, not {measure!r}")
    blocks = comparison.blocks
    left = [name for name in comparison.layout.blocks if name.startswith("IN")]
    right = [name for name in reversed(comparison.layout.blocks) if name.startswith("OUT")]
    below = [MIDDLE, *(name for name in blocks if name not in comparison.layout.blocks)]
    rows = max(len(left), len(right))
    column = LABEL + BAR + GAP
    picture = Image.new("RGB", (2 * column + GAP, TOP + (rows + len(below) + 1) * ROW), PAPER)
    pen = ImageDraw.Draw(picture)
    letters = font(14)
    pen.text((GAP // 2, 12), f"A: {comparison.names[0]}", INK, letters)
    pen.text((GAP // 2, 32), f"B: {comparison.names[1]}", INK, letters)
    pen.text((GAP // 2, 54), MEASURES[measure], INK, letters)
    values = {name: _value(comparison, name, measure) for name in blocks}
    largest = max([bar for bar, _ in values.values()], default=0.0) or 1.0
    places = [(name, GAP // 2, TOP + i * ROW) for i, name in enumerate(left)]
    places += [(name, GAP // 2 + column, TOP + i * ROW) for i, name in enumerate(right)]
    places += [
        (name, GAP // 2 + column // 2, TOP + (rows + i) * ROW + ROW // 2) for i, name in enumerate(below)
    ]
    for name, x, y in places:
        bar, text = values.get(name, (0.0, "-"))
        share = bar / largest
        colour = tuple(round(n + (f - n) * share) for n, f in zip(NEAR, FAR, strict=True))
        pen.text((x, y + 3), name, INK, letters)
        pen.rectangle((x + LABEL, y + 3, x + LABEL + BAR, y + ROW - 4), outline=FRAME)
        pen.rectangle((x + LABEL, y + 3, x + LABEL + round(BAR * share), y + ROW - 4), fill=colour)
        inside = BAR * share > NUMBER  # the number stands on the bar, not beside it
        pen.text((x + LABEL + 6, y + 4), text, PAPER if inside else INK, letters)
    return picture


def _value(comparison: Comparison, name: str, measure: str) -> tuple[float, str]:
    """Length of the bar and the number beside it."""
    found = comparison.blocks[name]
    if measure == "cosine":
        return max(0.0, 1 - found.cosine), f"{found.cosine:.5f}"
    return found.relative, f"{found.relative:.5f}"
