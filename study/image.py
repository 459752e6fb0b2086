"""The results of a sweep: images in the shape of the model, and a plot and a table of how far each block moved them.

Images are compared in 8 bits, as files hold them, so that a sweep assembled from files equals one that ran in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..blocks.drawing import GRID, HIGH, INK, LOW, PAPER, as_array, positions, write
from ..blocks.names import BlockError
from .sweep import Cell, Sweep

GAP, MARGIN, LABEL = 3, 14, 22  # pixels
UNIT_RMS, UNIT_COSINE = "pixel RMS, 8-bit steps", "embeddings, 1 - cosine"


@dataclass(frozen=True)
class Moves:
    """How far one cell's pictures are from those of the unmodified model, picture by picture."""

    cell: Cell
    rms: tuple[float, ...]  # root mean square of the pixel difference, in steps of 1/255
    cosine: tuple[float, ...] | None = None  # one minus the cosine similarity of the image embeddings


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Images ``b h w c`` in 0..1, or in bytes already, as uint8: loaded 8-bit pictures as they were, others as core's SaveImage cuts them."""
    if images.dtype == torch.uint8:
        return images.cpu().numpy()
    steps = images.detach().cpu().to(torch.float32)[..., :3].numpy() * 255
    nearest = np.rint(steps)
    loaded = np.abs(steps - nearest).max(initial=0) < 1e-2
    return np.clip(nearest if loaded else steps, 0, 255).astype(np.uint8)


def by_cell(sweep: Sweep, images: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """The pictures of each cell, uint8 ``n h w 3``; BlockError when their number or sizes do not fit the sweep."""
    batches = [as_bytes(image) for image in images]
    shapes = {batch.shape[1:] for batch in batches}
    if len(shapes) > 1:
        raise BlockError(
            f"The images of a sweep have different sizes: {sorted(shapes)}. They must have one size."
        )
    pictures = np.concatenate(batches) if batches else np.empty((0, 1, 1, 3), np.uint8)
    each, left = divmod(len(pictures), len(sweep.cells))
    if left or each == 0 or each % len(sweep.seeds):
        raise BlockError(
            f"{len(pictures)} images are given for {len(sweep.cells)} cells (the unmodified model and "
            f"{len(sweep.blocks)} blocks x {len(sweep.ratios)} ratios) with {len(sweep.seeds)} seeds each; "
            f"expected are {len(sweep.cells) * len(sweep.seeds)}, or a multiple for larger batches."
        )
    return list(pictures.reshape(len(sweep.cells), each, *pictures.shape[1:]))


def measure(
    sweep: Sweep, pictures: Sequence[np.ndarray], embeddings: Sequence[np.ndarray] | None = None
) -> list[Moves]:
    """How far every cell but the first moved from the first; ``embeddings`` are ``n d`` per cell."""
    origin = pictures[0].astype(np.float32)
    moves = []
    for number, cell in enumerate(sweep.cells[1:], start=1):
        squares = np.square(pictures[number].astype(np.float32) - origin)
        rms = np.sqrt(squares.mean(axis=(1, 2, 3), dtype=np.float64))
        cosine = None if embeddings is None else tuple(_apart(embeddings[number], embeddings[0]).tolist())
        moves.append(Moves(cell, tuple(rms.tolist()), cosine))
    return moves


def report(sweep: Sweep, moves: Sequence[Moves], title: str = "") -> str:
    """The moves as a table, the farthest first."""
    embedded = moves[0].cosine is not None
    head = f"{'':<16}{UNIT_RMS}" + (f"   {UNIT_COSINE}" if embedded else "")
    lines = [title, head] if title else [head]
    for move in sorted(moves, key=lambda move: -mean(move.rms)):
        line = f"{move.cell.label:<16}{mean(move.rms):>{len(UNIT_RMS)}.2f}"
        if move.cosine is not None:
            line += f"   {mean(move.cosine):>{len(UNIT_COSINE)}.4f}"
        lines.append(line)
    return "\n".join(lines)


def draw_sweep(
    sweep: Sweep, pictures: Sequence[np.ndarray], moves: Sequence[Moves], size: int, title: str = ""
) -> np.ndarray:
    """All pictures in the shape of the U, float32 ``h w 3`` in 0..1; ``size`` is the longer side of each in pixels.

    IN runs down the left, M00 stands below, OUT rises on the right, the unmodified pictures and the plot between
    them. The bar under a label is how far the block moved its pictures; one block alone makes a column.
    """
    each, height, width = pictures[0].shape[:3]
    scale = size / max(height, width)
    box = max(1, round(width * scale)), max(1, round(height * scale))
    cell_width = each * (box[0] + GAP) + 2 * MARGIN
    row_height = LABEL + box[1] + GAP
    places = cell_places(sweep)
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    block_height = len(sweep.ratios) * row_height + MARGIN
    top = MARGIN + (2 * LABEL if title else 0)
    canvas = Image.new("RGB", (columns * cell_width + MARGIN, rows * block_height + top), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        write(draw, (2 * MARGIN, MARGIN), title, 20)
    far = max((mean(move.rms) for move in moves), default=0.0)
    moved = {move.cell: move for move in moves}
    for number, cell in enumerate(sweep.cells):
        column, row = places[cell.block]
        shift = sweep.ratios.index(cell.ratio) * row_height if cell.block else 0
        corner = (MARGIN + column * cell_width, top + row * block_height + shift)
        _draw_cell(canvas, draw, corner, cell, pictures[number], box, moved.get(cell), far)
    space = _free_space(places, rows)
    if space and each * box[0] >= 240:
        first, last = space
        area = (cell_width - 2 * MARGIN, (last - first) * block_height - MARGIN)
        plot = Image.fromarray(_plot(moves, area))
        canvas.paste(plot, (MARGIN + cell_width, top + first * block_height))
    return as_array(canvas)


def draw_plot(moves: Sequence[Moves], title: str = "") -> np.ndarray:
    """How far each block moved the pictures: bars for the means, dots for the single pictures; float32 ``h w 3``."""
    panels = 1 if moves[0].cosine is None else 2
    size = (140 + 480 * panels, 22 * len(moves) + 4 * LABEL)
    return _plot(moves, size, title).astype(np.float32) / 255


def _apart(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 - cosine similarity, row by row."""
    lengths = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(others, axis=-1)
    return np.maximum(1 - (vectors * others).sum(axis=-1) / lengths, 0)  # rounding may dip below


def cell_places(sweep: Sweep) -> dict[str | None, tuple[int, int]]:
    """(column, row) of every block, and of the unmodified pictures under None, in the order of the cells; unused rows and columns closed up."""
    if len(sweep.blocks) == 1:
        return {None: (0, 0), sweep.blocks[0]: (0, 1)}
    whole = positions(sweep.layout)
    if not sweep.layout.is_unet:  # columns of blocks, below the unmodified images
        whole = {block: (column, row + 1) for block, (column, row) in whole.items()}
    first = (1, 0) if sweep.layout.is_unet else (0, 0)
    used: dict[str | None, tuple[int, int]] = {None: first, **{block: whole[block] for block in sweep.blocks}}
    columns = sorted({column for column, _ in used.values()})
    rows = sorted({row for _, row in used.values()})
    return {name: (columns.index(column), rows.index(row)) for name, (column, row) in used.items()}


def _free_space(places: dict[str | None, tuple[int, int]], rows: int) -> tuple[int, int] | None:
    """The rows (from, to) between the unmodified pictures and M00, where a plot fits."""
    middle = [row for column, row in places.values() if column == 1]
    last = min((row for row in middle if row > 0), default=rows)
    three_columns = max(column for column, _ in places.values()) == 2
    return (1, last) if three_columns and last >= 4 else None


def _draw_cell(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    cell: Cell,
    pictures: np.ndarray,
    box: tuple[int, int],
    move: Moves | None,
    far: float,
) -> None:
    left, top = corner
    left += MARGIN
    write(draw, (left, top), cell.label, 15)
    if move:
        length = round((len(pictures) * (box[0] + GAP) - GAP) * (mean(move.rms) / far if far else 0))
        draw.rectangle((left, top + LABEL - 4, left + length, top + LABEL - 2), fill=HIGH)
    for number, picture in enumerate(pictures):
        image = Image.fromarray(picture).resize(box, Image.Resampling.LANCZOS)
        canvas.paste(image, (left + number * (box[0] + GAP), top + LABEL))


def _plot(moves: Sequence[Moves], size: tuple[int, int], title: str = "") -> np.ndarray:
    """Horizontal bars in the order of the sweep, one panel per measure; uint8 ``h w 3``."""
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    top = LABEL
    if title:
        write(draw, (8, 8), title, 15)
        top += LABEL
    panels = [(UNIT_RMS, LOW, [move.rms for move in moves])]
    if all(move.cosine is not None for move in moves):
        panels.append((UNIT_COSINE, HIGH, [move.cosine or () for move in moves]))
    row = max(6.0, (size[1] - top - LABEL) / len(moves))
    labels = 100
    for number, move in enumerate(moves):
        middle = (8, top + (number + 0.5) * row)
        write(draw, middle, move.cell.label, min(14, row * 0.8), anchor="lm")
    width = (size[0] - labels) // len(panels)
    for number, (unit, colour, values) in enumerate(panels):
        _panel(draw, (labels + number * width, top), width - 16, row, unit, colour, values)
    return np.asarray(image)


def _panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    width: int,
    row: float,
    unit: str,
    colour: tuple[int, int, int],
    values: Sequence[tuple[float, ...]],
) -> None:
    left, top = corner
    far = max(map(max, values)) or 1.0
    write(draw, (left, top - LABEL + 2), f"{unit}, 0 to {far:.3g}", 12)
    for number, cell in enumerate(values):
        y = top + number * row
        draw.rectangle((left, y + 2, left + width, y + row - 2), fill=GRID)
        draw.rectangle((left, y + 2, left + width * mean(cell) / far, y + row - 2), fill=colour)
        for value in cell:
            x = left + width * value / far
            draw.ellipse((x - 2, y + row / 2 - 2, x + 2, y + row / 2 + 2), fill=INK)


def mean(values: Sequence[float]) -> float:
    """The mean of a cell's figures, image by image."""
    return sum(values) / len(values)
