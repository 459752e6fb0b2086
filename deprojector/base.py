"""The recursion all families share: row by row, a batch and all units of an ensemble together."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config
from .errors import DeprojectorError

CONSTANT_ROWS = (
    "sos_embed",
    "null_embed",
)  # what the text encoder gives for every text, and for the empty one


class Recursion(Protocol):
    """One run over one batch: knows the embedding, remembers what the next row depends on."""

    def step(self, rows: Tensor | None) -> Tensor:
        """From the rows just made (``u b n d``) to the next ones; None stands for the very beginning."""
        ...


class Deprojector(nn.Module):
    """Maps CLIP's pooled state back to the hidden states of a text it could be the pooled state of.

    Row 0 of every result is the start row ``sos_embed``. ``default_fuse`` is the share of the units' mean
    that an ensemble feeds back to each unit when a call does not say.
    """

    default_fuse = 0.0
    sos_embed: Tensor
    deprojection: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config: Any = config
        self._weights: tuple[tuple, Any] | None = None

    @property
    def projection_inverse(self) -> Tensor:
        """``d p``: takes projected embeddings (CLIP's text_embeds, image_embeds) to the pooled space."""
        return self.deprojection

    @abstractmethod
    def weights(self) -> Any:
        """The parameters laid out for the recursion: units stacked, layers that share an input joined."""

    @abstractmethod
    def recursion(self, embeds: Tensor) -> Recursion:
        """Begin a run over ``embeds (b d)``."""

    @torch.no_grad()
    def deproject(
        self,
        embeds: Tensor,
        from_projected: bool = False,
        fuse: float | None = None,
        *,
        rows: int | None = None,
        on_row: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Hidden states ``b rows d`` of the embeddings ``b d``, in the module's dtype and on its device.

        ``from_projected`` says that the embeddings went through CLIP's projection. ``fuse`` (0..1) mixes the
        units' mean into what each unit of an ensemble sees of its own past. ``rows`` stops earlier than the
        model's length. ``on_row`` is called with the number of rows made so far; what it raises ends the run.
        """
        embeds = self.checked(embeds, from_projected)
        if rows is None:
            rows = int(self.config.rows)
        if not 1 <= rows <= self.config.rows:
            raise DeprojectorError(f"rows must be 1 to {self.config.rows}, got {rows}.")
        result = self._free_run(embeds, self.default_fuse if fuse is None else fuse, rows, on_row)
        return torch.cat([self.start_row(len(embeds)), result], dim=1)

    def _free_run(
        self, embeds: Tensor, fuse: float, rows: int, on_row: Callable[[int], None] | None
    ) -> Tensor:
        recursion = self.recursion(embeds)
        made: list[Tensor] = []
        own: Tensor | None = None
        for number in range(1, rows):
            own = recursion.step(own)
            mean = own[0] if own.shape[0] == 1 else own.mean(0)
            made.append(mean)
            if fuse and own.shape[0] > 1:
                own = torch.lerp(own, mean[None], fuse)
            if on_row:
                on_row(number)
        return torch.cat(made, dim=1) if made else embeds.new_empty(len(embeds), 0, self.config.dim)

    def teacher_forced(self, embeds: Tensor, states: Tensor) -> Tensor:
        """Predictions ``b rows d`` where every row sees the true rows ``states (b rows d)`` before it.

        Differentiable; for single models (an ensemble's units see different pasts).
        """
        if self.config.ensemble_size > 1:
            raise DeprojectorError(
                f"teacher forcing needs a single model, this is an ensemble of {self.config.ensemble_size}."
            )
        embeds = self.checked(embeds, False)
        recursion = self.recursion(embeds)
        first = recursion.step(None)
        rest = recursion.step(states[None, :, 1:-1].to(embeds))
        return torch.cat([self.start_row(len(embeds)), first[0], rest[0]], dim=1)

    def checked(self, embeds: Tensor, from_projected: bool) -> Tensor:
        """``embeds (b d)`` on the module's device, in its dtype, out of the projection.

        DeprojectorError on another width.
        """
        matrix = self.projection_inverse
        width = matrix.shape[1] if from_projected else self.config.dim
        if embeds.dim() != 2 or embeds.shape[1] != width:
            raise DeprojectorError(
                f"expected embeddings (batch, {width}), got {tuple(embeds.shape)}: this deprojector belongs "
                f"to a CLIP text model of width {self.config.dim}."
            )
        embeds = embeds.to(matrix)
        return F.linear(embeds, matrix) if from_projected else embeds

    def start_row(self, batch: int) -> Tensor:
        """The start row for each sample, ``b 1 d``."""
        return self.sos_embed.expand(batch, 1, -1)

    def laid_out(self) -> Any:
        """``weights()``, kept until a parameter changes; made anew (differentiable) under autograd."""
        if torch.is_grad_enabled():
            return self.weights()
        stamp = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in self._layer_tensors())
        if self._weights is None or self._weights[0] != stamp:
            self._weights = None
            self._weights = stamp, self.weights()
        return self._weights[1]

    def _layer_tensors(self) -> list[Tensor]:
        own = [buffer for name, buffer in self.named_buffers() if name not in CONSTANT_ROWS]
        return [*self.parameters(), *own]

    def rebased(self, sos: Tensor, null: Tensor) -> "Deprojector":
        """The same model, weights shared, on another text encoder's start and empty-text rows (``d``)."""
        twin = copy.copy(self)
        rows = {"sos_embed": sos, "null_embed": null}
        swapped = {
            name: rows[name].to(buffer) if name in rows else buffer for name, buffer in self._buffers.items()
        }
        twin._buffers = swapped
        twin._weights = self._weights
        return twin

    def _apply(self, *args: Any, **kwargs: Any) -> "Deprojector":
        self._weights = None  # the laid-out copies would stay behind on the old device
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_weights": None}
