"""A sweep for the browser: per cell one file with its pictures, where it stands in the U, and how far it moved."""

import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .image import UNIT_COSINE, UNIT_RMS, Moves, cell_places
from .sweep import Sweep

ACROSS = 8  # images in a row
QUALITY = 92  # of the JPEGs: looked at, never measured


def sheet(pictures: np.ndarray) -> bytes:
    """All images of a cell, uint8 ``n h w 3``, as one JPEG: a strip of one row, of several from ``ACROSS`` images on."""
    count, height, width, _ = pictures.shape
    columns = min(count, ACROSS)
    canvas = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
    for number, picture in enumerate(pictures):
        canvas.paste(Image.fromarray(picture), (number % columns * width, number // columns * height))
    return jpeg(np.asarray(canvas))


def jpeg(pixels: np.ndarray) -> bytes:
    """A uint8 image ``h w 3`` as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def data_url(pixels: np.ndarray) -> str:
    """A uint8 image ``h w 3`` as the address of a JPEG inside an HTML page."""
    return "data:image/jpeg;base64," + binascii.b2a_base64(jpeg(pixels), newline=False).decode()


def describe(sweep: Sweep, moves: Sequence[Moves], files: Sequence[dict[str, str]]) -> dict[str, Any]:
    """What ``web/sweep`` draws, as JSON: ``files`` are core's ``filename, subfolder, type``, one per cell."""
    moved = {move.cell: move for move in moves}
    places = cell_places(sweep)
    cells = []
    for cell, file in zip(sweep.cells, files, strict=True):
        move = moved.get(cell)
        cells.append(
            {
                "label": cell.label,
                "block": cell.block,
                "place": list(places[cell.block]),
                "file": file,
                "rms": list(move.rms) if move else [],
                "cosine": list(move.cosine) if move and move.cosine is not None else [],
            }
        )
    return {"units": {"rms": UNIT_RMS, "cosine": UNIT_COSINE}, "cells": cells}
