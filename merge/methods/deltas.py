"""Methods on task vectors: A is the base, every other model a fine-tune of it, delta = model - A."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .measure import mean_cosine, smallest_of_largest
from .registry import between, method, rounds_once

PIECE = 1 << 20  # elements of a delta that are held at a time


def threshold(a: Tensor, model: Tensor, density: float) -> float:
    """The smallest magnitude among the ``density`` share of largest elements of model - A."""
    keep = round(density * a.numel())
    if keep >= a.numel():
        return 0.0
    if keep <= 0:
        return math.inf

    def magnitudes() -> Iterator[Tensor]:
        for base, piece in zip(a.reshape(-1).split(PIECE), model.reshape(-1).split(PIECE), strict=True):
            yield (piece.float() - base.float()).abs()

    if a.numel() <= PIECE:  # sorting a small tensor is faster than counting its bits
        (values,) = magnitudes()
        return float(values.kthvalue(a.numel() - keep + 1).values)
    return smallest_of_largest(magnitudes, keep)


def trim(delta: Tensor, smallest: float) -> Tensor:
    """Zero the elements whose magnitude is below ``smallest`` (TIES, step 1)."""
    return torch.where(delta.abs() < smallest, 0, delta)


def elect_and_mean(deltas: Sequence[Tensor]) -> Tensor:
    """Per element: the sign with more total magnitude wins, the mean is over the deltas of that sign.

    TIES, steps 2 and 3 (arXiv 2306.01708, section 4); where the paper weighs, sd-mecha by default counts.
    """
    elected = torch.sign(torch.stack(list(deltas)).sum(0))
    total, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for delta in deltas:
        agrees = (torch.sign(delta) == elected) & (elected != 0)
        total += torch.where(agrees, delta, 0)
        count += agrees
    return total / count.clamp(min=1)


def _draws(like: Tensor, seed: int) -> Tensor:
    """Uniform numbers in [0, 1), drawn on the CPU so that every device merges alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(like.shape, generator=generator).to(like.device)


def _thresholds(tensors: Sequence[Tensor], numbers: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    a, *models = tensors
    return {"thresholds": tuple(threshold(a, model, numbers["density"]) for model in models)}


@method(
    "ties",
    "TIES",
    "alpha",
    models=(2, None),
    options={"density": 0.2},
    identity={"alpha": 0.0},
    elementwise=False,
    measure=_thresholds,
    check=between(0, 1, "density"),
    hides_nan=True,
    source="Yadav et al., arXiv 2306.01708",
)
@rounds_once
def ties(
    a: Tensor,
    *models: Tensor,
    alpha: float = 1.0,
    density: float = 0.2,
    thresholds: Sequence[float] | None = None,
) -> Tensor:
    """A + alpha tau: trim each task vector to its top ``density``, elect signs, mean of those that agree.

    ``thresholds`` are the smallest magnitudes kept, where the tensors are pieces of larger ones.
    """
    if thresholds is None:
        thresholds = _thresholds((a, *models), {"density": density})["thresholds"]
    trimmed = [trim(model - a, smallest) for model, smallest in zip(models, thresholds, strict=True)]
    return a + alpha * elect_and_mean(trimmed)


def _check_drop(numbers: Mapping[str, float]) -> str | None:
    half = numbers.get("window", 0.0) / 2
    for name, value in (
        (("drop + window / 2", half), ("drop - window / 2", -half)) if half else [("drop", 0.0)]
    ):
        if not 0 <= numbers["drop"] + value < 1:
            return f"{name} is {numbers['drop'] + value:g}. It must be at least 0 and below 1."
    return None


@method(
    "dare",
    "DARE",
    "alpha",
    models=(2, None),
    options={"drop": 0.9},
    identity={"alpha": 0.0},
    elementwise=False,
    seeded=True,
    check=_check_drop,
    hides_nan=True,
    source="Yu et al., arXiv 2311.03099, with task arithmetic",
)
@rounds_once
def dare(a: Tensor, *models: Tensor, alpha: float = 1.0, drop: float = 0.9, seed: int = 0) -> Tensor:
    """A + alpha sum_t (mask_t delta_t) / (1 - drop): drop elements at random, rescale what is left."""
    total = torch.zeros_like(a)
    for index, model in enumerate(models):
        total += torch.where(_draws(a, seed + index) >= drop, model - a, 0)
    return a + (alpha / (1 - drop)) * total


@method(
    "della",
    "DELLA",
    "alpha",
    models=(2, None),
    options={"drop": 0.7, "window": 0.2},
    identity={"alpha": 0.0},
    elementwise=False,
    seeded=True,
    check=_check_drop,
    hides_nan=True,
    source="Deep et al., arXiv 2406.11617",
)
@rounds_once
def della(
    a: Tensor, *models: Tensor, alpha: float = 1.0, drop: float = 0.7, window: float = 0.2, seed: int = 0
) -> Tensor:
    """A + alpha tau: MagPrune each task vector, elect signs, mean of those that agree.

    Small elements of a row are dropped more often: the drop rate runs over ``drop`` +- ``window`` / 2 by
    rank, and each survivor is divided by its own keep rate (sd-mecha divides all of them by 1 - drop).
    """
    pruned = []
    for index, model in enumerate(models):
        delta = model - a
        rows = delta.abs().reshape(delta.shape[0] if delta.ndim > 1 else 1, -1)
        rank = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        rate = (drop - window / 2 + window * rank / max(rows.shape[1] - 1, 1)).reshape(delta.shape)
        pruned.append(torch.where(_draws(a, seed + index) >= rate, delta / (1 - rate), 0))
    return a + alpha * elect_and_mean(pruned)


def _stock_share(tensors: Sequence[Tensor], numbers: Mapping[str, float]) -> dict[str, float]:
    angle, count = max(0.0, mean_cosine(tensors[0], tensors[1:])), len(tensors) - 1
    return {"share": count * angle / (1 + (count - 1) * angle)}


@method(
    "model_stock",
    "Model stock",
    "alpha",
    models=(3, None),
    identity={"alpha": 0.0},
    elementwise=False,
    measure=_stock_share,
    source="Jang et al., arXiv 2403.19522, equation 1 per layer",
)
@rounds_once
def model_stock(a: Tensor, *models: Tensor, alpha: float = 1.0, share: float | None = None) -> Tensor:
    """A + alpha t (mean - A), t = N cos / (1 + (N - 1) cos), cos the mean angle cosine of the task vectors.

    One t per tensor as in the paper (sd-mecha takes one per row); a negative cosine counts as 0. ``share`` is t, where
    the tensors are pieces of larger ones.
    """
    if share is None:
        share = _stock_share((a, *models), {})["share"]
    deltas = [model - a for model in models]
    return a + (alpha * share) * (torch.stack(deltas).sum(0) / len(deltas))
