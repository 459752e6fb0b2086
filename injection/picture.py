"""Images of the model's blocks with what each receives, and labelled grids."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..blocks.drawing import GRID, PAPER, font, positions, write
from ..blocks.walk import Block, ModelBlocks
from .entries import Injection

COLOURS = (
    *((222, 120, 66), (92, 134, 196), (96, 160, 110), (176, 52, 92), (150, 120, 190)),
    *((200, 170, 60), (80, 170, 180), (140, 110, 80)),
)
MARGIN, ROW, COLUMN = 18, 30, 250


def draw_plan(injections: Sequence[Injection], blocks: ModelBlocks) -> np.ndarray:
    """The blocks in the shape of the model, one coloured band per injection: float32 ``h w c`` in 0..1."""
    places = positions(blocks.layout)
    rows = max(row for _, row in places.values()) + 1
    legend = [_legend_line(one) for one in injections] or ["No injections: the conditioning's own prompt."]
    columns = max(3, max(column for column, _ in places.values()) + 1)
    size = (columns * COLUMN + 2 * MARGIN, (rows + len(legend) + 1) * ROW + 2 * MARGIN)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    for block in blocks.blocks:
        column, row = places[block.name]
        _draw_block(draw, (MARGIN + column * COLUMN, MARGIN + row * ROW), block, injections)
    for number, line in enumerate(legend):
        top = MARGIN + (rows + 1 + number) * ROW
        if injections:
            draw.rectangle((MARGIN, top + 4, MARGIN + 18, top + 20), fill=_colour(number))
        write(draw, (MARGIN + 28, top + 2), line, 15)
    return np.asarray(image, dtype=np.float32) / 255


def _draw_block(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], block: Block, injections: Sequence[Injection]
) -> None:
    left, top = corner
    box = (left + 58, top + 3, left + COLUMN - 20, top + ROW - 4)
    if not block.depth:
        write(draw, (left, top + 6), block.name, 15, GRID)
        draw.line((box[0], (box[1] + box[3]) // 2, box[2], (box[1] + box[3]) // 2), fill=GRID)
        return
    write(draw, (left, top + 6), block.name, 15)
    draw.rectangle(box, outline=GRID)
    acting = [(n, text) for n, one in enumerate(injections) if (text := _amount(one, block))]
    width = (box[2] - box[0]) / max(1, len(acting))
    for place, (number, text) in enumerate(acting):
        start = box[0] + place * width
        draw.rectangle((start + 1, box[1] + 1, start + width - 1, box[3] - 1), fill=_colour(number))
        write(draw, (start + 5, box[1] + 3), _fit(text, width - 8, 13), 13, PAPER)


def _amount(one: Injection, block: Block) -> str:
    """What a block gets of one injection, in a few letters; empty for nothing."""
    reached = [one.layers[sub] for sub in block.sub_blocks if sub in one.layers]
    if not reached:
        return ""
    settings = [setting for settings in reached for setting in settings]
    weights = sorted({setting.weight for setting in settings})
    text = f"{weights[0]:g}" if len(weights) == 1 else f"{weights[0]:g} to {weights[-1]:g}"
    parts = {setting.part for setting in settings} - {"kv"}
    text += f" /{'/'.join(sorted(parts))}" if parts else ""
    windows = [w.text() for w in (*one.windows, *(s.window for s in settings if s.window))]
    text += f" {' '.join(dict.fromkeys(windows))}" if windows else ""
    return text + (f" ({len(reached)} of {block.depth})" if len(reached) < block.depth else "")


def _legend_line(one: Injection) -> str:
    return _fit(f"{one.mode}: {one.label or 'prompt'}", 3 * COLUMN - 40, 15)


def _fit(text: str, width: float, size: float) -> str:
    """The text, cut with an ellipsis where it is longer than ``width`` pixels."""
    letters = font(size, text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _colour(number: int) -> tuple[int, int, int]:
    return COLOURS[number % len(COLOURS)]


def draw_grid(images: np.ndarray, labels: Sequence[str], columns: int = 0) -> np.ndarray:
    """Images ``n h w c`` in 0..1 side by side with a label below each: float32 ``h w c``; 0 columns: about square."""
    count, height, width, _ = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    size = max(11, min(22, width // 14))
    band = size + 12
    page = Image.new("RGB", (columns * (width + 8) + 8, rows * (height + band + 8) + 8), PAPER)
    draw = ImageDraw.Draw(page)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left = 8 + (number % columns) * (width + 8)
        top = 8 + (number // columns) * (height + band + 8)
        page.paste(Image.fromarray((image.clip(0, 1) * 255).round().astype(np.uint8)), (left, top))
        write(draw, (left, top + height + 4), _fit(label, width, size), size)
    return np.asarray(page, dtype=np.float32) / 255
