"""A merge computed into memory, for running a recipe live."""

from collections.abc import Callable

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .packed import Packed
from .writer import CHUNK, FileLayout, Piece, computing, default_threads, work


def to_tensors(
    inner: Checkpoint,
    order: list[str],
    *,
    threads: int = 0,
    tick: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, as its file holds them; the sources are read piece by piece, only the result is held."""
    checkpoint = Packed(inner)
    entries = checkpoint.entries
    with torch.inference_mode(
        False
    ):  # a mode of the calling thread: the workers could not write into its tensors
        tensors = {key: torch.empty(entry.shape, dtype=entry.dtype) for key, entry in entries.items()}

    def put(piece: Piece, data: Tensor) -> None:
        tensors[piece.key].view(-1)[piece.start : piece.stop] = data.view(-1)

    pieces = FileLayout.of(checkpoint).pieces(checkpoint, checkpoint.order(order), CHUNK)
    work(computing(checkpoint, pieces, put), threads or default_threads(), tick)
    return tensors
