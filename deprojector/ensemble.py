"""Several models as one: units side by side, parameters averaged, or rows of two models in a row."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Deprojector
from .errors import DeprojectorError
from .families import VrnnConfig


def from_units(models: Sequence[Deprojector]) -> Deprojector:
    """An ensemble of single models of one configuration; shared buffers are the first one's."""
    _check_alike(models)
    if isinstance(models[0].config, VrnnConfig) and len(models) > 1:
        raise DeprojectorError(
            "VRNN models cannot be an ensemble. Merge their parameters or average their outputs."
        )
    return _with_units(models[0], [model.models[0] for model in models])


def units(model: Deprojector) -> list[Deprojector]:
    """The single models of an ensemble; a single model is its own only unit."""
    return [_with_units(model, [unit]) for unit in model.models]


def merge_units(models: Sequence[Deprojector]) -> Deprojector:
    """One model with the mean of the models' parameters."""
    _check_alike(models)
    merged = copy.deepcopy(models[0])
    others = [model.state_dict() for model in models]
    for key, tensor in merged.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([state[key] for state in others]).mean(0))
    return merged


def _with_units(model: Deprojector, chosen: Sequence[nn.Module]) -> Deprojector:
    """A copy of a model with copies of these units."""
    result = copy.copy(model)
    result._modules = {"models": nn.ModuleList([copy.deepcopy(unit) for unit in chosen])}
    result._buffers = {name: buffer.clone() for name, buffer in model._buffers.items() if buffer is not None}
    result.config = dataclasses.replace(model.config, ensemble_size=len(chosen))
    return result


class Concat(nn.Module):
    """The first ``length1`` rows of one model, then rows 1 to ``length2`` of another."""

    def __init__(self, model1: Any, length1: int, model2: Any, length2: int):
        super().__init__()
        if model1.config.dim != model2.config.dim:
            raise DeprojectorError(
                f"The models have different widths: {model1.config.dim} and {model2.config.dim}."
            )
        if not 1 <= length1 <= model1.config.rows or not 0 <= length2 < model2.config.rows:
            raise DeprojectorError(
                f"length1 must be 1 to {model1.config.rows} and length2 0 to {model2.config.rows - 1}, "
                f"got {length1} and {length2}."
            )
        self.model1, self.length1 = model1, length1
        self.model2, self.length2 = model2, length2

    @property
    def config(self) -> Any:
        """The first model's configuration."""
        return self.model1.config

    @property
    def sos_embed(self) -> Tensor:
        """The first model's start row."""
        return self.model1.sos_embed

    def inverse_projection(self) -> Tensor:
        """The first model's; see ``Deprojector``."""
        return self.model1.inverse_projection()

    def rebased(self, sos: Tensor, null: Tensor) -> "Concat":
        """Both models with another text encoder's start row and empty-text row."""
        return Concat(
            self.model1.rebased(sos, null), self.length1, self.model2.rebased(sos, null), self.length2
        )

    def deproject(
        self,
        embeds: Tensor,
        from_projected: bool = False,
        fuse: float | None = None,
        *,
        rows: int | None = None,
        on_row: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Hidden states of the embeddings ``b d``; arguments as in ``Deprojector.deproject``."""
        total = self.length1 + self.length2
        rows = total if rows is None else rows
        if not 1 <= rows <= total:
            raise DeprojectorError(f"rows must be 1 to {total}, got {rows}.")
        first = self.model1.deproject(
            embeds, from_projected, fuse, rows=min(rows, self.length1), on_row=on_row
        )
        rest = max(rows - self.length1, 0)
        second = self.model2.deproject(embeds, from_projected, fuse, rows=rest + 1, on_row=on_row)
        return torch.cat([first, second[:, 1:].to(first)], dim=1)


def _check_alike(models: Sequence[Deprojector]) -> None:
    if not models:
        raise DeprojectorError("At least one model is needed.")
    first = models[0].config
    for number, model in enumerate(models):
        if model.config.ensemble_size != 1:
            raise DeprojectorError(f"Model {number} is an ensemble itself. Only single models can be joined.")
        if model.config != first:
            other, mine = dataclasses.asdict(model.config), dataclasses.asdict(first)
            differing = next((name for name in mine if other.get(name) != mine[name]), "the family")
            raise DeprojectorError(f"Model {number} differs from model 0 in {differing}.")
