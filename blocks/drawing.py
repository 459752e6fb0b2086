"""What all images of the pack share (palette, font, conversion), and block weights in the shape of the model.

A U-Net is drawn as a U, the stacks of a transformer as columns.
"""

import contextlib
import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .names import Layout
from .weights import BlockWeights, number_text

LATIN_END = 0x0250  # the first letter that the default font lacks
WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "NotoSansJP-Regular.otf", "NotoSerifCJK-Regular.ttc",
    "meiryo.ttc", "YuGothM.ttc", "msgothic.ttc", "msyh.ttc", "malgun.ttf", "Hiragino Sans GB.ttc", "PingFang.ttc",
    "Arial Unicode.ttf", "ipaexg.ttf", "ipag.ttf", "DroidSansFallbackFull.ttf", "wqy-zenhei.ttc", "wqy-microhei.ttc",
)  # fmt: skip
SERIES = (  # colour and dashes of each line of a plot: told apart without colours too
    ((0, 114, 178), ()), ((213, 94, 0), (9, 5)), ((0, 128, 94), (2, 4)), ((190, 90, 150), (12, 4, 2, 4)),
    ((178, 122, 0), (18, 6)), ((60, 150, 200), (5, 3)),
)  # fmt: skip
COLUMN = 30  # blocks in one column of a stack
INK, PAPER, GRID = (32, 36, 44), (250, 250, 247), (214, 216, 220)
LOW, HIGH, BEYOND = (92, 134, 196), (222, 120, 66), (176, 52, 92)  # A's colour, B's colour, outside 0..1


def font(size: float, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all images, ``size`` in pixels; one of the system's for a text that it has no letters for."""
    wide = _wide_font(size) if any(ord(letter) >= LATIN_END for letter in text) else None
    return wide or ImageFont.load_default(size=size)


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: float,
    fill: tuple[int, int, int] = INK,
    anchor: str | None = None,
) -> None:
    """Draw a text, ``size`` in pixels, in a font that has its letters; ``anchor`` as PIL names it."""
    draw.text(at, text, fill=fill, font=font(size, text), anchor=anchor)


def wrap(text: str, size: float, width: float) -> list[str]:
    """The lines of a text, each at most ``width`` pixels wide; words are cut only where one alone is wider."""
    letters, lines = font(size, text), [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if letters.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and letters.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line] or [""]


def curve(
    draw: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    fill: tuple[int, int, int],
    dashes: tuple[float, ...] = (),
    width: int = 2,
) -> None:
    """A line through points; ``dashes`` are lengths in pixels, drawn and left out in turn, none for a whole line."""
    if not dashes:
        draw.line(list(points), fill=fill, width=width)
        return
    place, left = 0, dashes[0]
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        length = math.hypot(to_x - x, to_y - y)
        done = 0.0
        while done < length:
            step = min(left, length - done)
            ends = [
                (x + (to_x - x) * at / length, y + (to_y - y) * at / length) for at in (done, done + step)
            ]
            if place % 2 == 0:
                draw.line(ends, fill=fill, width=width)
            done, left = done + step, left - step
            if left <= 0:
                place += 1
                left = dashes[place % len(dashes)]


@cache
def _wide_font(size: float) -> ImageFont.FreeTypeFont | None:
    """A font of the system with Chinese, Japanese and Korean letters; None where there is none of the usual ones."""
    for name in WIDE_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return None


def as_array(image: Image.Image) -> np.ndarray:
    """A drawn image as float32 ``h w c`` in 0..1, as ComfyUI's IMAGE holds it."""
    return np.asarray(image, dtype=np.float32) / 255


def positions(layout: Layout) -> dict[str, tuple[int, int]]:
    """(column, row) of every block. A U-Net: IN down column 0, M00 below in column 1, OUT up column 2.

    Other models: one column per stack, in order; a long stack continues in the next column.
    """
    if layout.is_unet:
        rows = max(layout.inputs, layout.outputs)
        places = {f"IN{i:02}": (0, i) for i in range(layout.inputs)}
        places |= {f"OUT{i:02}": (2, rows - 1 - i) for i in range(layout.outputs)}
        if layout.middle:
            places["M00"] = (1, rows)
        return places
    places, column = {}, 0
    for stack in layout.stacks:
        for number, block in enumerate(stack.blocks):
            places[block] = (column + number // COLUMN, number % COLUMN)
        column += -(-stack.count // COLUMN)
    return places


def draw_weights(weights: BlockWeights, row_height: int = 26, column_width: int = 250) -> np.ndarray:
    """The weights as bars in the shape of the model: float32 ``h w c`` in 0..1.

    A bar's length is its share of the range in use; it turns from A's blue to B's orange, and red outside 0..1.
    """
    layout = weights.layout
    places = positions(layout)
    margin = 16
    rows = max((row for _, row in places.values()), default=-1) + 1
    columns = max((column for column, _ in places.values()), default=0) + 1
    size = (columns * column_width + 2 * margin, (rows + len(weights.extra)) * row_height + 2 * margin)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    low, high = min((0.0, *weights.values)), max((1.0, *weights.values))
    entries = [(name, value, places[name]) for name, value in zip(layout.blocks, weights.values, strict=True)]
    entries += [(name, value, (columns // 2, rows + i)) for i, (name, value) in enumerate(weights.extra)]
    for name, value, (column, row) in entries:
        corner = (margin + column * column_width, margin + row * row_height)
        _bar(draw, corner, name, value, low, high, row_height, column_width)
    return as_array(image)


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
    write(draw, (left, top + row_height * 0.2), name, row_height * 0.5)
    start, width = left + 48, column_width - 104
    zero = start + width * (0 - low) / (high - low)
    end = start + width * (value - low) / (high - low)
    draw.rectangle((start, top + 5, start + width, top + row_height - 6), fill=GRID)
    draw.rectangle((min(zero, end), top + 5, max(zero, end), top + row_height - 6), fill=_colour(value))
    text = number_text(round(value, 3))
    write(draw, (start + width + 6, top + row_height * 0.2), text, row_height * 0.5)


def _colour(value: float) -> tuple[int, int, int]:
    if not 0 <= value <= 1:
        return BEYOND
    red, green, blue = (round(a + (b - a) * value) for a, b in zip(LOW, HIGH, strict=True))
    return red, green, blue
