"""Cosine merges: where the two models agree the result leans to A, where they differ to B."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from .measure import dot
from .registry import method, rounds_once


def _columns_a(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(normalize(a.float(), dim=0), normalize(b.float(), dim=0), dim=0)


def _likeness_a(a: Tensor, b: Tensor) -> Tensor:
    unit_a, unit_b = normalize(a, dim=0), normalize(b, dim=0)
    return (cosine_similarity(unit_a, unit_b, dim=0) + _whole(unit_a, unit_b)) / 2


def _likeness_b(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.float(), b.float()
    return (cosine_similarity(a, b, dim=0) + _whole(a, b)) / 2


def _whole(a: Tensor, b: Tensor) -> float:
    norms = (dot(a, a) * dot(b, b)) ** 0.5
    return dot(a, b) / norms if norms else float("nan")


def _span(measures: Sequence[Tensor]) -> Mapping[str, float]:
    """Lowest and highest similarity once the outer percent on either side is cut off."""
    values = torch.cat([measure.reshape(-1) for measure in measures]).numpy()
    values = values[~np.isnan(values)]
    if not values.size:
        return {"low": 0.0, "high": 1.0}
    values = values[values >= np.percentile(values, 1, method="midpoint")]
    values = values[values <= np.percentile(values, 99, method="midpoint")]
    return {"low": float(values.min()), "high": float(values.max())}


def _lean(a: Tensor, b: Tensor, likeness: Tensor, alpha: float, low: float, high: float) -> Tensor:
    """lerp(B, A, k), k = clip((likeness - low) / (high - low) - alpha, 0, 1), one k per column."""
    k = ((likeness - low) / max(high - low, 1e-12) - alpha).clip(0, 1).nan_to_num(nan=1.0)
    return b * (1 - k) + a * k


@method(
    "cosine_a",
    "Cosine A",
    "alpha",
    models=2,
    identity=None,
    hides_nan=True,
    options={"low": 0.0, "high": 1.0},
    elementwise=False,
    survey=_columns_a,
    conclude=_span,
    source="supermerger, cosineA",
)
@rounds_once
def cosine_a(a: Tensor, b: Tensor, alpha: float, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Keep A's structure with B's details: similarity is measured on tensors normalised along dimension 0.

    ``low`` and ``high`` are the model's range of similarities (1 % cut on either side), which a merge
    finds in a first pass over all keys. The sign of alpha is ignored, as in supermerger.
    """
    return _lean(a, b, _likeness_a(a, b), abs(alpha), low, high) if a.ndim and a.numel() else a


@method(
    "cosine_b",
    "Cosine B",
    "alpha",
    models=2,
    identity=None,
    hides_nan=True,
    options={"low": 0.0, "high": 1.0},
    elementwise=False,
    survey=_likeness_b,
    conclude=_span,
    source="supermerger, cosineB",
)
@rounds_once
def cosine_b(a: Tensor, b: Tensor, alpha: float, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Keep B's structure with A's details: similarity is measured on the tensors as they are."""
    return _lean(a, b, _likeness_b(a, b), alpha, low, high) if a.ndim and a.numel() else a
