"""Labelled sheets of images, rows by columns, as the articles show them."""

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, LINE, SIZE = 8, 18, 14
LABEL_WIDTH = 150  # of the column with the row labels, in pixels
SMALLEST = 160  # narrower images are enlarged by a whole factor
INK, PAPER = (32, 36, 44), (250, 250, 247)


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
    font = ImageFont.load_default(SIZE)
    characters = max(1, (width - MARGIN) // 8)
    heads = [textwrap.wrap(label, characters) or [""] for label in columns]
    sides = [textwrap.wrap(label, LABEL_WIDTH // 8) or [""] for label in rows]
    left = LABEL_WIDTH if rows else MARGIN
    top = MARGIN + (LINE + MARGIN if title else 0) + LINE * max((len(head) for head in heads), default=0)
    cell = max(height, *(LINE * len(side) for side in sides)) if sides else height
    size = (left + across * (width + MARGIN), top + down * (cell + MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN // 2), title, INK, ImageFont.load_default(SIZE + 2))
    for column, head in enumerate(heads):
        pen.multiline_text(
            (left + column * (width + MARGIN), top - LINE * len(head)), "\n".join(head), INK, font
        )
    for row, side in enumerate(sides):
        pen.multiline_text((MARGIN, top + row * (cell + MARGIN)), "\n".join(side), INK, font)
    pixels = (images[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()
    for number in range(count):
        row, column = divmod(number, across)
        place = (left + column * (width + MARGIN), top + row * (cell + MARGIN))
        sheet.paste(Image.fromarray(pixels[number]), place)
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]
