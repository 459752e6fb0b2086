"""Methods on task vectors: A is the base, every other model a fine-tune of it, delta = model - A."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .measure import cosine
from .registry import method, rounds_once


def trim(delta: Tensor, density: float) -> Tensor:
    """Keep the ``density`` share of elements with the largest magnitude, zero the rest (TIES, step 1)."""
    keep = round(density * delta.numel())
    if keep >= delta.numel():
        return delta
    if keep <= 0:
        return torch.zeros_like(delta)
    smallest_kept = delta.abs().reshape(-1).kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= smallest_kept, delta, 0)


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


@method(
    "ties",
    "TIES",
    "alpha",
    models=(2, None),
    options={"density": 0.2},
    passes=(({"alpha": 0.0}, 0),),
    elementwise=False,
    source="Yadav et al., arXiv 2306.01708",
)
@rounds_once
def ties(a: Tensor, *models: Tensor, alpha: float = 1.0, density: float = 0.2) -> Tensor:
    """A + alpha tau: trim each task vector to its top ``density``, elect signs, mean of those that agree."""
    return a + alpha * elect_and_mean([trim(model - a, density) for model in models])


@method(
    "dare",
    "DARE",
    "alpha",
    models=(2, None),
    options={"drop": 0.9},
    passes=(({"alpha": 0.0}, 0),),
    elementwise=False,
    seeded=True,
    source="Yu et al., arXiv 2311.03099, with task arithmetic",
)
@rounds_once
def dare(a: Tensor, *models: Tensor, alpha: float = 1.0, drop: float = 0.9, seed: int = 0) -> Tensor:
    """A + alpha sum_t (mask_t delta_t) / (1 - drop): drop elements at random, rescale what is left."""
    _check_share("drop", drop)
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
    passes=(({"alpha": 0.0}, 0),),
    elementwise=False,
    seeded=True,
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
    _check_share("drop + window / 2", drop + window / 2)
    _check_share("drop - window / 2", drop - window / 2)
    pruned = []
    for index, model in enumerate(models):
        delta = model - a
        rows = delta.abs().reshape(delta.shape[0] if delta.ndim > 1 else 1, -1)
        rank = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        rate = (drop - window / 2 + window * rank / max(rows.shape[1] - 1, 1)).reshape(delta.shape)
        pruned.append(torch.where(_draws(a, seed + index) >= rate, delta / (1 - rate), 0))
    return a + alpha * elect_and_mean(pruned)


@method(
    "model_stock",
    "Model stock",
    "alpha",
    models=(3, None),
    passes=(({"alpha": 0.0}, 0),),
    elementwise=False,
    source="Jang et al., arXiv 2403.19522, equation 1 per layer",
)
@rounds_once
def model_stock(a: Tensor, *models: Tensor, alpha: float = 1.0) -> Tensor:
    """A + alpha t (mean - A), t = N cos / (1 + (N - 1) cos), cos the mean angle cosine of the task vectors.

    One t per tensor as in the paper (sd-mecha takes one per row); a negative cosine counts as 0.
    """
    deltas = [model - a for model in models]
    pairs = list(combinations(deltas, 2))
    angle = max(0.0, sum(cosine(x, y) for x, y in pairs) / len(pairs))
    count = len(deltas)
    share = count * angle / (1 + (count - 1) * angle)
    return a + (alpha * share) * (torch.stack(deltas).sum(0) / count)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value}")
