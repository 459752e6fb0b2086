"""The known method that comes nearest to the blocks of a merge that no shares explain, tried on one tensor of each block."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..files.checkpoint import Checkpoint
from ..methods import METHODS, Method, seed_for
from .solve import Shares

BLOCKS = 3  # those with the largest residual
PARENTS = 3  # the candidates with the largest free shares
GRID = (0.1, 0.3, 0.5, 0.7, 0.9)  # ratios at which every method is tried
REFINED, HALVINGS = 3, 7  # the methods that leave least there are tried at more ratios
LINEAR = ("weighted_sum", "add_difference", "average", "scale", "sigmoid")  # least squares find their shares
BETTER = 0.9  # of what the shares leave, to be called nearer


@dataclass(frozen=True)
class Nearest:
    """One block: ``method`` with its ``models`` (places among the candidates) and the ratio that leaves least.

    ``left`` is relative to the merge, on the tensor that was tried; ``fits`` where rounding explains it.
    """

    block: str
    method: Method
    models: tuple[int, ...]
    alpha: float
    left: float
    fits: bool


@dataclass(frozen=True)
class _Sample:
    """One tensor: of the candidates that are tried, by place, and of the merge."""

    key: str
    parents: Mapping[int, Tensor]
    merge: Tensor


def nearest_methods(
    merge: Checkpoint,
    candidates: Sequence[Checkpoint],
    places: Mapping[str, str],
    blocks: Mapping[str, Shares],
) -> tuple[Nearest, ...]:
    """The nearest method for each of the worst blocks that no shares fit; none for a block that no method is nearer to.

    Every method with one ratio is tried, with its default options, on the likeliest candidates in every order.
    """
    bad = [name for name, shares in blocks.items() if not (shares.fits or shares.fits_free)]
    bad = sorted(bad, key=lambda name: -blocks[name].residual)[:BLOCKS]
    if not bad:
        return ()
    weight = [max(abs(blocks[name].free[place]) for name in bad) for place in range(len(candidates))]
    parents = sorted(sorted(range(len(candidates)), key=lambda place: -weight[place])[:PARENTS])
    samples = {
        name: _sample(merge, candidates, parents, [key for key, place in places.items() if place == name])
        for name in bad
    }  # fmt: skip
    found = []
    for name in blocks:
        if name not in samples:
            continue
        shares = blocks[name]
        method, models, alpha, left = _best(list(samples.values()), samples[name], parents)
        if left < BETTER * _left_by_shares(shares, samples[name]):
            found.append(Nearest(name, method, models, alpha, left, left <= shares.explained))
    return tuple(found)


def _sample(
    merge: Checkpoint, candidates: Sequence[Checkpoint], parents: Sequence[int], keys: Sequence[str]
) -> _Sample:
    """The smallest matrix of a block; the largest tensor where it has none."""
    sizes = {key: merge.entries[key].numel for key in keys}
    matrices = [key for key in keys if len(merge.entries[key].shape) > 1]
    key = min(matrices, key=lambda key: sizes[key]) if matrices else max(keys, key=lambda key: sizes[key])

    def read(model: Checkpoint) -> Tensor:
        return model.read(key).reshape(model.entries[key].shape)

    return _Sample(key, {place: read(candidates[place]) for place in parents}, read(merge))


def _tried(parents: Sequence[int]) -> Iterator[tuple[Method, tuple[int, ...]]]:
    """Every method with every order of its models; those after the first of any number have none."""
    for method in METHODS.values():
        if method.ratios != ("alpha",) or method.name in LINEAR:
            continue
        if method.most:
            yield from ((method, models) for models in itertools.permutations(parents, method.least))
            continue
        for first in parents:
            others = [place for place in parents if place != first]
            for count in range(method.least - 1, len(others) + 1):
                yield from ((method, (first, *more)) for more in itertools.combinations(others, count))


def _best(
    samples: Sequence[_Sample], block: _Sample, parents: Sequence[int]
) -> tuple[Method, tuple[int, ...], float, float]:
    """The method, its models, its ratio, and what it leaves in the block; ``samples`` are those of all blocks."""
    found = []
    for method, models in _tried(parents):
        options = _options(method, models, samples)
        values = {alpha: _left(block, method, models, options, alpha) for alpha in GRID}
        found.append((min(values.values()), method, models, options, values))
    found.sort(key=lambda one: one[0])
    best = []
    for _, method, models, options, values in found[:REFINED]:
        step = (GRID[1] - GRID[0]) / 2
        for _ in range(HALVINGS):
            at = min(values, key=lambda alpha: values[alpha])
            for alpha in (at - step, at + step):
                if 0 < alpha <= 1:
                    values[alpha] = _left(block, method, models, options, alpha)
            step /= 2
        at = min(values, key=lambda alpha: values[alpha])
        best.append((method, models, at, values[at]))
    return min(best, key=lambda one: one[3])


def _options(method: Method, models: Sequence[int], samples: Sequence[_Sample]) -> Mapping[str, float]:
    """What the method finds out about whole models, from the samples of all blocks."""
    if not (method.survey and method.conclude):
        return {}
    return method.conclude(
        [method.survey(*(one.parents[place] for place in models)) for one in samples if one.merge.ndim]
    )


def _left(
    sample: _Sample, method: Method, models: Sequence[int], options: Mapping[str, float], alpha: float
) -> float:
    tensors = [sample.parents[place] for place in models]
    try:
        made = method.blend(
            tensors, {"alpha": alpha}, options, seed=seed_for(0, sample.key), dtype=sample.merge.dtype
        )
    except ValueError:  # numbers that the method cannot use
        return math.inf
    return _distance(made, sample.merge)


def _left_by_shares(shares: Shares, sample: _Sample) -> float:
    """What the better of the two kinds of shares leaves."""
    return min(
        _distance(
            torch.stack([numbers[place] * x.double() for place, x in sample.parents.items()]).sum(0),
            sample.merge,
        )
        for numbers in (shares.shares, shares.free)
    )


def _distance(made: Tensor, merge: Tensor) -> float:
    """Relative to the merge; infinite where that is zero or one of them is not finite."""
    whole = float(merge.double().norm())
    found = float((made.double() - merge.double()).norm()) / whole if whole else math.inf
    return found if math.isfinite(found) else math.inf


def describe(nearest: Sequence[Nearest], letters: Sequence[str]) -> list[str]:
    """A sentence for each method: its blocks, ratios, and whether rounding explains what it leaves."""
    groups: dict[tuple[str, tuple[int, ...], bool], list[Nearest]] = {}
    for one in nearest:
        groups.setdefault((one.method.title, one.models, one.fits), []).append(one)
    lines = []
    for (title, models, fits), group in groups.items():
        names = ", ".join(letters[place] for place in models[:-1]) + f" and {letters[models[-1]]}"
        ratios = ", ".join(f"{one.block} {one.alpha:.3g}" for one in group)
        rest = (
            "What it leaves is within rounding."
            if fits
            else f"It leaves up to {max(one.left for one in group):.1e} of the merge, more than rounding explains."
        )
        lines.append(f"The nearest known method is {title} of {names}, alpha: {ratios}. {rest}")
    return lines
