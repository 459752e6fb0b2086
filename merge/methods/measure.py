"""Numbers taken from whole tensors, piece by piece: the same with any number of threads, and with little memory."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor

PIECE = 1 << 14  # below torch's grain size: one piece is summed by one thread


def dot(a: Tensor, b: Tensor) -> float:
    """The inner product of two tensors of one shape, in float64, piece by piece in a fixed order."""
    pieces = zip(a.reshape(-1).split(PIECE), b.reshape(-1).split(PIECE), strict=True)
    partial = [torch.sum(x.double() * y.double()) for x, y in pieces]
    return math.fsum(torch.stack(partial).tolist()) if partial else 0.0


def mean_cosine(a: Tensor, models: Sequence[Tensor]) -> float:
    """The mean cosine of the angles between the differences of every two models from ``a``, computed in float32."""
    count = len(models)
    pairs = [(i, i) for i in range(count)] + list(combinations(range(count), 2))
    sums: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for base, *pieces in zip(*(tensor.reshape(-1).split(PIECE) for tensor in (a, *models)), strict=True):
        deltas = [(piece.float() - base.float()).double() for piece in pieces]
        for i, j in pairs:
            sums[i, j].append(float(torch.sum(deltas[i] * deltas[j])))
    dots = {pair: math.fsum(values) for pair, values in sums.items()}
    found = []
    for i, j in pairs[count:]:
        norms = math.sqrt(dots[i, i]) * math.sqrt(dots[j, j])
        found.append(dots[i, j] / norms if norms else 0.0)
    return sum(found) / len(found)


def smallest_of_largest(pieces: Callable[[], Iterable[Tensor]], keep: int) -> float:
    """The ``keep``-th largest of non-negative float32 numbers that ``pieces()`` gives, each time the same.

    The bits of such numbers have their order: two counts, of the upper and of the lower 16 bits, find it exactly.
    """
    upper = torch.zeros(1 << 15, dtype=torch.int64)
    for piece in pieces():
        upper += torch.bincount(piece.reshape(-1).view(torch.int32) >> 16, minlength=1 << 15).cpu()
    high, rest = _place(upper, keep)
    lower = torch.zeros(1 << 16, dtype=torch.int64)
    for piece in pieces():
        bits = piece.reshape(-1).view(torch.int32)
        lower += torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16).cpu()
    low, _ = _place(lower, rest)
    return float(torch.tensor(high << 16 | low, dtype=torch.int32).view(torch.float32))


def _place(counts: Tensor, keep: int) -> tuple[int, int]:
    """The bin that the ``keep``-th largest is in, and which of the largest of that bin it is."""
    below = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(below, keep))
    before = int(below[place - 1]) if place else 0
    return len(counts) - 1 - place, keep - before
