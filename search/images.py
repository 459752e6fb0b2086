"""A study as an image: the history of its scores, and the importance of each block in the shape of the model."""

import numpy as np
from PIL import Image, ImageDraw

from ..blocks.drawing import GRID, HIGH, LOW, PAPER, as_array, draw_weights, write
from ..blocks.names import BASE
from ..blocks.weights import BlockWeights
from .study import Study

WIDTH, HEIGHT, MARGIN = 760, 300, 48


def thumbnail(image: np.ndarray, size: int) -> Image.Image:
    """An image ``h w c`` in 0..1, at most ``size`` pixels high and wide."""
    pixels = np.clip(image[..., :3] * 255, 0, 255).astype(np.uint8)
    drawn = Image.fromarray(pixels)
    drawn.thumbnail((size, size))
    return drawn


def draw_study(study: Study) -> np.ndarray:
    """History above, importance per block below: float32 ``h w 3`` in 0..1."""
    parts = [_history(study)]
    shares = block_importance(study)
    if shares:
        parts.append(_titled("Importance of each block (share of the largest)", _bars(study, shares)))
    width = max(part.shape[1] for part in parts)
    paper = np.asarray(PAPER, dtype=np.float32) / 255
    padded = []
    for part in parts:
        canvas = np.empty((part.shape[0], width, 3), dtype=np.float32)
        canvas[:] = paper
        canvas[:, : part.shape[1]] = part
        padded.append(canvas)
    return np.concatenate(padded)


def block_importance(study: Study) -> dict[str, float]:
    """Per block the importance of the parameters that set it, of the largest 1; empty below ten trials."""
    shares: dict[str, float] = {}
    for name, share in study.importance().items():
        for block in study.space.blocks_of(name):
            shares[block] = shares.get(block, 0.0) + share
    most = max(shares.values(), default=0.0)
    return {block: share / most for block, share in shares.items()} if most > 0 else {}


def _bars(study: Study, shares: dict[str, float]) -> np.ndarray:
    layout = study.space.layout
    values = tuple(shares.get(block, 0.0) for block in layout.blocks)
    extra = tuple((name, share) for name, share in shares.items() if name not in layout.index)
    if not layout.blocks and not extra:
        extra = ((BASE, 0.0),)
    return draw_weights(BlockWeights(layout, values, extra))


def _titled(title: str, drawn: np.ndarray) -> np.ndarray:
    head = Image.new("RGB", (drawn.shape[1], 36), PAPER)
    write(ImageDraw.Draw(head), (16, 12), title, 15)
    return np.concatenate([as_array(head), drawn])


def _history(study: Study) -> np.ndarray:
    """The score of every trial as a dot, the best so far as a line."""
    rows = [row for row in study.rows() if row.state == "complete"]
    scores = [row.scores[0] for row in rows]
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    title = f"{study.name}: {len(rows)} trials"
    write(draw, (MARGIN, 10), title, 15)
    left, top, right, bottom = MARGIN, 38, WIDTH - 16, HEIGHT - 28
    draw.rectangle((left, top, right, bottom), outline=GRID)
    if not rows:
        return as_array(image)
    low, high = min(scores), max(scores)
    last = max(1, rows[-1].number)

    def place(number: int, score: float) -> tuple[float, float]:
        share = (score - low) / (high - low) if high > low else 0.5
        return left + (right - left) * number / last, bottom - 4 - (bottom - top - 8) * share

    better = max if study.directions[0] == "maximize" else min
    best = scores[0]
    line = []
    for row, score in zip(rows, scores, strict=True):
        before, best = best, better(best, score)
        line += [place(row.number, before), place(row.number, best)]
    draw.line([*line, (right, line[-1][1])], fill=HIGH, width=2)
    for row, score in zip(rows, scores, strict=True):
        x, y = place(row.number, score)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=LOW)
    write(draw, (4, top), f"{high:.4g}", 11)
    write(draw, (4, bottom - 12), f"{low:.4g}", 11)
    write(draw, (left, bottom + 6), "0", 11)
    write(draw, (right, bottom + 6), f"trial {rows[-1].number}", 11, anchor="ra")
    return as_array(image)
