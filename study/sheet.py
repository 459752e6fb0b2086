"""Labelled sheets of images, rows by columns, as the articles show them."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..blocks.drawing import PAPER, wrap, write

MARGIN, LINE, SIZE = 8, 18, 14
LABEL_WIDTH = 150  # of the column with the row labels, in pixels
SMALLEST = 160  # narrower images are enlarged by a whole factor


def labels_of(text: str) -> list[str]:
    """The labels in a text, one per line; empty lines at the end are dropped."""
    return text.rstrip().splitlines() if text.strip() else []


def draw_sheet(images: Tensor, columns: list[str], rows: list[str], title: str = "") -> Tensor:
    """Images (``b h w c`` in [0, 1]), row by row, as one labelled sheet (``1 h w 3``).

    Without column labels all images are in one row; without row labels there are as many rows as needed. Small images are
    enlarged. ValueError when labels and images do not fit.
    """
    count = images.shape[0]
    across = len(columns) or -(-count // max(len(rows), 1))
    down = len(rows) or -(-count // across)
    if across * down != count:
        raise ValueError(
            f"The sheet has {across} columns and {down} rows, and {count} images are connected. Give one image per "
            "cell, row by row, or change the labels."
        )
    factor = -(-SMALLEST // images.shape[2])
    images = images.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    height, width = images.shape[1:3]
    heads = [wrap(label, SIZE, width - MARGIN) for label in columns]
    sides = [wrap(label, SIZE, LABEL_WIDTH - MARGIN) for label in rows]
    left = LABEL_WIDTH if rows else MARGIN
    top = MARGIN + (LINE + MARGIN if title else 0) + LINE * max((len(head) for head in heads), default=0)
    cell = max(height, *(LINE * len(side) for side in sides)) if sides else height
    size = (left + across * (width + MARGIN), top + down * (cell + MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        write(pen, (MARGIN, MARGIN // 2), title, SIZE + 2)
    for column, head in enumerate(heads):
        _lines(pen, (left + column * (width + MARGIN), top - LINE * len(head)), head)
    for row, side in enumerate(sides):
        _lines(pen, (MARGIN, top + row * (cell + MARGIN)), side)
    pixels = (images[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()
    for number in range(count):
        row, column = divmod(number, across)
        place = (left + column * (width + MARGIN), top + row * (cell + MARGIN))
        sheet.paste(Image.fromarray(pixels[number]), place)
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _lines(pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: list[str]) -> None:
    for number, line in enumerate(lines):
        write(pen, (at[0], at[1] + LINE * number), line, SIZE)
