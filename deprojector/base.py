"""What every family of deprojectors shares: sizes, the recursion row by row, the names of its tensors.

Shapes: ``b`` batch, ``n`` new rows, ``d`` width.
"""

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import DeprojectorError

# From the rows just made (``b n d``; None at the very beginning) to the next ones.
Step = Callable[[Tensor | None], Tensor]


@dataclass(frozen=True)
class Config:
    """The fields of ``config.json``; names, spelling and defaults are those of the published files."""

    model_type: ClassVar[str] = ""

    projection_dim: int = 768
    layer_norm_eps: float = 1e-5
    ensemble_size: int = 1

    @property
    def dim(self) -> int:
        """Width of a hidden state."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """Number of hidden states of one text, the start row included."""
        raise NotImplementedError

    @classmethod
    def of_sizes(cls, **fields: Any) -> Any:
        """A configuration for a text encoder of these sizes (fields of ``ClipConfig``)."""
        return cls(**fields)

    def as_json(self) -> dict[str, Any]:
        """The fields as ``config.json`` holds them, ``model_type`` included."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class ClipConfig(Config):
    """The sizes that a deprojector has in common with its CLIP text model."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"

    @property
    def dim(self) -> int:
        return self.hidden_size

    @property
    def rows(self) -> int:
        return self.max_position_embeddings


class Unit(nn.Module):
    """One network; an ensemble has several."""

    def __init__(self, config: Any):
        super().__init__()
        self.config: Any = config

    @abstractmethod
    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        """A run over embeddings ``b d``; ``start`` and ``null`` (``d``) are the rows every text has in common."""


class Deprojector(nn.Module):
    """Maps CLIP's pooled state to the hidden states of a text that has this pooled state.

    Row 0 of every result is the start row ``sos_embed``. ``default_fuse`` is the share of the units' mean that
    an ensemble feeds back to each unit when a call does not say.
    """

    default_fuse = 0.0
    # Set by each family:
    config_class: ClassVar[type[Config]]
    unit_class: ClassVar[Any]
    sign: ClassVar[str | tuple[str, ...]]  # how a tensor's name begins that only this family has
    presets: ClassVar[Mapping[str, Callable[[int], dict[str, Any]]]] = {}  # name -> width -> fields
    starts_from: ClassVar[Mapping[str, str]] = {}  # unit's tensors -> CLIP's, for training
    frozen: tuple[str, ...] = ()  # unit's tensors that training leaves as they are
    keeps_null: ClassVar[bool] = False
    projection_name: ClassVar[str] = "deprojection"

    sos_embed: Tensor
    deprojection: Tensor
    models: Any

    def __init__(self, config: Any):
        super().__init__()
        self.config: Any = config
        self.register_buffer("deprojection", torch.zeros(config.dim, config.projection_dim))
        self.register_buffer("sos_embed", torch.zeros(config.dim))
        if self.keeps_null and getattr(config, "has_null", True):
            self.register_buffer("null_embed", torch.zeros(config.dim))
        self.models = nn.ModuleList([self.unit_class(config) for _ in range(config.ensemble_size)])
        self.register_state_dict_post_hook(_to_published_names)
        self.register_load_state_dict_pre_hook(_from_published_names)

    def published(self, key: str, unit: int) -> str:
        """The published name of tensor ``key`` of a unit."""
        return f"models.{unit}.{key}"

    def names(self) -> dict[str, str]:
        """The published name of every tensor that has another one here."""
        names = {"deprojection": self.projection_name}
        for number, unit in enumerate(self.models):
            names |= {f"models.{number}.{key}": self.published(key, number) for key in unit.state_dict()}
        return {own: published for own, published in names.items() if own != published}

    def inverse_projection(self) -> Tensor:
        """``d p``: takes projected embeddings (CLIP's text_embeds, image_embeds) to the pooled space.

        DeprojectorError for a deprojector that was trained without one.
        """
        matrix = self.deprojection
        square = matrix.shape[0] == matrix.shape[1]
        if not matrix.any() or (square and torch.equal(matrix, torch.eye(len(matrix)).to(matrix))):
            raise DeprojectorError(
                "This deprojector has no inverse projection. Images and projected embeddings need one. Use a "
                "published deprojector, or train with projection_from connected."
            )
        return matrix

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

        ``from_projected``: the embeddings went through CLIP's projection. ``fuse`` (0..1): the share of the
        units' mean in what each unit of an ensemble sees of its own past. ``rows`` stops earlier than the
        model's length. ``on_row`` is called with the number of rows made; what it raises ends the run.
        """
        embeds = self.checked(embeds, from_projected)
        rows = int(self.config.rows if rows is None else rows)
        if not 1 <= rows <= self.config.rows:
            raise DeprojectorError(f"rows must be 1 to {self.config.rows}, got {rows}.")
        return self.free_run(embeds, self.default_fuse if fuse is None else fuse, rows, on_row)

    def free_run(
        self, embeds: Tensor, fuse: float, rows: int, on_row: Callable[[int], None] | None = None
    ) -> Tensor:
        """Rows ``b rows d`` from the model's own rows; differentiable where autograd is on."""
        steps = self.begin(embeds)
        own: list[Any] = [None] * len(steps)
        made = [self.start_row(len(embeds))]
        for number in range(1, rows):
            own = [step(row) for step, row in zip(steps, own, strict=True)]
            mean = own[0] if len(own) == 1 else torch.stack(own).mean(0)
            made.append(mean)
            if fuse and len(own) > 1:
                own = [torch.lerp(row, mean, fuse) for row in own]
            if on_row:
                on_row(number)
        return torch.cat(made, dim=1)

    def teacher_forced(self, embeds: Tensor, states: Tensor) -> Tensor:
        """Predictions ``b rows d`` where every row sees the true rows ``states (b rows d)`` before it.

        Differentiable; for single models (an ensemble's units see different pasts).
        """
        if len(self.models) > 1:
            raise DeprojectorError(
                f"Teacher forcing needs a single model, this is an ensemble of {len(self.models)}."
            )
        embeds = self.checked(embeds, False)
        (step,) = self.begin(embeds)
        first, rest = step(None), step(states[:, 1:-1].to(embeds))
        return torch.cat([self.start_row(len(embeds)), first, rest], dim=1)

    def begin(self, embeds: Tensor) -> list[Step]:
        """A run of every unit over the embeddings ``b d``."""
        null = getattr(self, "null_embed", torch.zeros_like(self.sos_embed))
        return [unit.begin(embeds, self.sos_embed, null) for unit in self.models]

    def checked(self, embeds: Tensor, from_projected: bool) -> Tensor:
        """``embeds (b d)`` on the module's device, in its dtype, out of the projection.

        DeprojectorError for another width, or without an inverse projection where one is needed.
        """
        width = self.config.projection_dim if from_projected else self.config.dim
        if embeds.dim() != 2 or embeds.shape[1] != width:
            raise DeprojectorError(
                f"Expected embeddings (batch, {width}), got {tuple(embeds.shape)}. This deprojector belongs "
                f"to a CLIP text model of width {self.config.dim}."
            )
        embeds = embeds.to(self.sos_embed)
        return F.linear(embeds, self.inverse_projection()) if from_projected else embeds

    def start_row(self, batch: int) -> Tensor:
        """The start row for each sample, ``b 1 d``."""
        return self.sos_embed.expand(batch, 1, -1)

    def rebased(self, sos: Tensor, null: Tensor) -> "Deprojector":
        """The same model, parameters shared, with another text encoder's start and empty-text rows (``d``)."""
        twin = copy.copy(self)
        rows = {"sos_embed": sos, "null_embed": null}
        twin._buffers = {
            name: rows[name].to(buffer) if name in rows else buffer for name, buffer in self._buffers.items()
        }
        return twin


def _to_published_names(module: Any, state: Any, prefix: str, _: Any) -> None:
    for own, published in module.names().items():
        state[prefix + published] = state.pop(prefix + own)


def _from_published_names(module: Any, state: Any, prefix: str, *_: Any) -> None:
    for own, published in module.names().items():
        if prefix + published in state:
            state[prefix + own] = state.pop(prefix + published)
