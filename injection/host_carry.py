"""What carries injections through ComfyUI's batching, and what a sampling run remembers."""

import logging
from collections.abc import Sequence
from typing import Any

import comfy.conds
import comfy.model_management
import torch
from torch import Tensor

from ..blocks.spec import Window
from .entries import Immutable, Injection
from .passes import Chunk
from .timing import Levels

log = logging.getLogger("blockwork")

KEY = "blockwork_injection"  # in model_conds, in the model's wrappers, and in the options of a run
PASS_KEY = KEY + "_pass"


class NotPrepared(RuntimeError):
    """A conditioning with injections met a model without the pieces that carry them out."""


class Chunks:
    """The injections of one batch, chunk by chunk; on its way from the conditionings to ``apply_model``."""

    def __init__(self, chunks: Sequence[Chunk]):
        self.chunks = tuple(chunks)

    @property
    def dtype(self) -> torch.dtype:
        """Asked for only where nothing took the object out before: the model does not know injections."""
        raise NotPrepared(
            "This conditioning carries block prompts, but the model it is sampled with was not prepared for "
            "them. Connect the MODEL output of the node that made the conditioning to the sampler (or to the "
            "patches before it)."
        )


class CONDInjections(comfy.conds.CONDRegular, Immutable):
    """The injections of one conditioning, as ComfyUI's batching sees them.

    ``side`` is the name that the guider has for the conditioning, known while it samples.
    """

    def __init__(self, cond: tuple[Injection, ...], chunk: Chunk | None = None, side: str = "positive"):
        self.cond, self.chunk, self.side = cond, chunk or Chunk(), side

    def _copy_with(self, cond: tuple[Injection, ...]) -> "CONDInjections":
        return CONDInjections(cond, self.chunk, self.side)

    def with_chunk(self, chunk: Chunk) -> "CONDInjections":
        """A copy that knows what acts in this evaluation."""
        return CONDInjections(self.cond, chunk, self.side)

    def process_cond(self, batch_size: int, **kwargs: Any) -> "CONDInjections":
        return self.with_chunk(self.chunk.of_rows(batch_size))

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, CONDInjections) and self.chunk.fits(other.chunk)

    def concat(self, others: Sequence["CONDInjections"]) -> Chunks:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Chunks([self.chunk, *(other.chunk for other in others)])

    def size(self) -> list[int]:
        return [1]


class Run:
    """What one sampling run remembers: prompts moved to a device, windows as noise levels, warnings given."""

    def __init__(self):
        self.moved: dict[tuple[Tensor, torch.device], Tensor] = {}  # a tensor hashes by identity and is kept
        self.levels: dict[Any, dict[Window, Levels]] = {}  # by model sampling: guiders may use two models
        self.prepared: dict[
            Any, Any
        ] = {}  # prompts after a model's text path, pooled embeddings as it reads them
        self.copies: set[tuple[int, int]] = set()  # (rows, tiles) found to be whole copies of a batch
        self.warned: set[str] = set()

    def to(self, tensor: Tensor, device: torch.device) -> Tensor:
        """``tensor`` on ``device``, copied there once per run."""
        key = (tensor, device)
        if key not in self.moved:
            self.moved[key] = comfy.model_management.cast_to_device(tensor, device, tensor.dtype)
        return self.moved[key]

    def once(self, key: Any, make: Any) -> Any:
        """What ``make`` returned the first time it was asked for under ``key``, an object kept alive here."""
        if key not in self.prepared:
            self.prepared[key] = make()
        return self.prepared[key]

    def warn(self, message: str) -> None:
        """Log a warning, once per run."""
        if message not in self.warned:
            self.warned.add(message)
            log.warning(message)
