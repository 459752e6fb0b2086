"""Several models as one: units run side by side, parameters averaged, or rows of two models in a row."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Deprojector
from .config import Config
from .errors import DeprojectorError
from .loading import build, from_state_dict
from .transformer import TransformerDeprojector
from .vrnn import VrnnDeprojector

# The parts of family T that an ensemble has once per unit.
PER_UNIT = (
    "state_proj",
    "state_weight",
    "mlp_to_input",
    "position_embedding",
    "encoder_layer",
    "final_layer_norm",
)


def from_units(models: Sequence[Deprojector]) -> Deprojector:
    """An ensemble of single models of one configuration; shared buffers are the first one's."""
    _check_alike(models)
    if isinstance(models[0], VrnnDeprojector) and len(models) > 1:
        raise DeprojectorError(
            "VRNN models know no ensembles; merge their parameters or average their outputs."
        )
    fields = {**_fields(models[0]), "ensemble_size": len(models)}
    state = dict(models[0].state_dict())
    if len(models) > 1:
        state = {}
        for number, model in enumerate(models):
            for key, value in model.state_dict().items():
                name = _unit_key(models[0], key, number)
                state.setdefault(name, value)
    return from_state_dict(state, fields)


def units(model: Deprojector) -> list[Deprojector]:
    """The single models that an ensemble is made of; a single model is its own only unit."""
    count = model.config.ensemble_size
    if count == 1:
        return [model]
    fields = {**_fields(model), "ensemble_size": 1}
    return [from_state_dict(_unit_state(model, number), fields) for number in range(count)]


def merge_units(models: Sequence[Deprojector]) -> Deprojector:
    """One model with the mean of the models' parameters."""
    _check_alike(models)
    states = [model.state_dict() for model in models]
    merged: dict[str, Tensor] = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            merged[key] = torch.stack([state[key] for state in states]).mean(0)
        else:
            merged[key] = first
    return from_state_dict(merged, _fields(models[0]))


class Concat(nn.Module):
    """The first ``length1`` rows of one model, then rows 1 to ``length2`` of another."""

    def __init__(self, model1: Deprojector, length1: int, model2: Deprojector, length2: int):
        super().__init__()
        if model1.config.dim != model2.config.dim:
            raise DeprojectorError(
                f"the models have different widths: {model1.config.dim} and {model2.config.dim}."
            )
        if not 1 <= length1 <= model1.config.rows or not 0 <= length2 < model2.config.rows:
            raise DeprojectorError(
                f"length1 must be 1 to {model1.config.rows} and length2 0 to {model2.config.rows - 1}, "
                f"got {length1} and {length2}."
            )
        self.model1, self.length1 = model1, length1
        self.model2, self.length2 = model2, length2

    @property
    def config(self) -> Config:
        """The first model's configuration."""
        return self.model1.config

    @property
    def projection_inverse(self) -> Tensor:
        """The first model's; see ``Deprojector``."""
        return self.model1.projection_inverse

    @property
    def sos_embed(self) -> Tensor:
        """The first model's start row."""
        return self.model1.sos_embed

    def rebased(self, sos: Tensor, null: Tensor) -> "Concat":
        """Both models on another text encoder's start row and empty-text row."""
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
        raise DeprojectorError("at least one model is needed.")
    first = models[0].config
    for number, model in enumerate(models):
        if model.config.ensemble_size != 1:
            raise DeprojectorError(f"model {number} is an ensemble itself; only single models can be joined.")
        if model.config != first:
            other, mine = dataclasses.asdict(model.config), dataclasses.asdict(first)
            differing = next((name for name in mine if other.get(name) != mine[name]), "the family")
            raise DeprojectorError(f"model {number} differs from model 0 in {differing}.")


def _fields(model: Deprojector) -> dict[str, Any]:
    fields = model.config.as_json()
    fields.pop("has_null", None)
    return fields


def _unit_state(model: Deprojector, number: int) -> dict[str, Tensor]:
    """The tensors of one unit of an ensemble under the names of a single model."""
    state = model.state_dict()
    single = build(dataclasses.replace(model.config, ensemble_size=1)).state_dict()
    return {key: state[_unit_key(model, key, number)] for key in single}


def _unit_key(model: Deprojector, key: str, number: int) -> str:
    """The name of a single model's tensor inside an ensemble, for unit ``number``."""
    if isinstance(model, TransformerDeprojector):
        part, _, rest = key.partition(".")
        return ".".join(filter(None, [part, str(number), rest])) if part in PER_UNIT else key
    return re.sub(r"^(\w+)\.0\.", rf"\g<1>.{number}.", key)
