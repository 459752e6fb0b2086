"""The shares of the candidates in one block, by least squares over sums that do not grow with the block.

The columns are the first candidate, the differences of the others from it, and the difference of the merge from it:
``Z = [p1, p2 - p1, ..., m - p1]``. Differences keep the digits that the products of whole models of one family would lose.
``Z^T Z`` is summed in float64; where the merge is stored in less than float32 its terms are sums of ``CHUNK`` products in
float32 (``products``), which is twice as fast and as exact as the data allow.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..files.header import Entry

SURE = 0.01  # a share that the data fixes no better than this cannot be told
INVOLVED = 0.1  # how much of a candidate a direction that cannot be told must hold to name it
CHUNK = 1 << 10  # products summed in float32 at a time
PRECISION = {torch.float64: 1e-14, torch.float32: 2.0**-22}  # relative to the lengths of two columns


@dataclass
class Sums:
    """What the least squares need of a block: ``gram`` is ``Z^T Z``, ``rounding`` per model (candidates, then merge).

    ``rounding`` is the largest squared error that rounding to the stored data types can make. ``precision`` is that of the
    sums, relative to the lengths of the two columns.
    """

    gram: Tensor
    rounding: Tensor
    numel: int = 0
    odd: int = 0
    precision: float = PRECISION[torch.float64]

    @classmethod
    def empty(cls, candidates: int) -> "Sums":
        size = candidates + 1
        return cls(torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))

    def add(self, other: "Sums") -> None:
        """Take in the sums of another tensor."""
        self.gram += other.gram
        self.rounding += other.rounding
        self.numel += other.numel
        self.odd += other.odd
        self.precision = max(self.precision, other.precision)


def products(columns: Tensor) -> Tensor:
    """``Z^T Z`` in float64 of columns ``k n`` in float64, or in float32 with ``n`` a multiple of ``CHUNK``.

    The error of an element is below ``PRECISION`` times the lengths of the two columns, but for overflow in float32.
    """
    if columns.dtype == torch.float64:
        return columns @ columns.T
    chunks = columns.view(len(columns), -1, CHUNK).transpose(0, 1)
    return torch.bmm(chunks, chunks.transpose(1, 2)).sum(0, dtype=torch.float64)


@dataclass(frozen=True)
class Shares:
    """The result for one block: one share per candidate, with sum one and free.

    ``residual`` and ``explained`` are lengths relative to the merge: what the shares leave, and what rounding can make.
    ``alike`` are groups of candidates whose shares cannot be told apart. ``error`` is how far rounding the merge
    can move the other shares: the length of the rounding by that of the shortest difference of candidates.
    """

    shares: tuple[float, ...]
    free: tuple[float, ...]
    residual: float
    free_residual: float
    explained: float
    alike: tuple[tuple[int, ...], ...]
    numel: int
    error: float

    @property
    def fits(self) -> bool:
        """Whether rounding explains what the shares leave."""
        return self.residual <= self.explained

    @property
    def fits_free(self) -> bool:
        """The same for the shares whose sum is free."""
        return self.free_residual <= self.explained


def rounding(dtype: torch.dtype, squared_length: float, numel: int) -> float:
    """The largest squared length of the error of rounding ``numel`` numbers to ``dtype``.

    Rounding to nearest moves a number by at most half a unit in the last place: ``eps / 2`` of its size, and half of
    the smallest subnormal number below the normal range.
    """
    info = torch.finfo(dtype)
    return (info.eps / 2) ** 2 * squared_length + numel * (info.smallest_normal * info.eps / 2) ** 2


def _rounding(entry: Entry, squared_length: float, numel: int) -> float:
    if entry.quantised is not None:
        return entry.quantised.rounding(entry.shape, squared_length)
    return rounding(entry.dtype, squared_length, numel)


def tensor_sums(gram: Tensor, entries: list[Entry], numel: int, odd: int, kind: torch.dtype) -> Sums:
    """The sums of one tensor, which the models (candidates, then merge) store like this; ``kind`` is that of the products."""
    first = float(gram[0, 0])
    lengths = [first] + [float(first + 2 * gram[0, i] + gram[i, i]) for i in range(1, len(gram))]
    found = [
        _rounding(entry, max(0.0, length), numel) for entry, length in zip(entries, lengths, strict=True)
    ]
    return Sums(gram, torch.tensor(found, dtype=torch.float64), numel, odd, PRECISION[kind])


def solve(sums: Sums) -> Shares:
    """The shares of a block. Where the data cannot fix them, they are the smallest that fit equally well."""
    gram, last = sums.gram, len(sums.gram) - 1
    length = math.sqrt(max(0.0, float(gram[0, 0] + 2 * gram[0, last] + gram[last, last])))
    noise = sums.rounding.sqrt()
    limit = _limit(noise, sums.numel)
    differences, loose, cut, shortest = _least_squares(
        gram[1:last, 1:last], gram[1:last, last], limit, sums.precision
    )
    shares = torch.cat([1 - differences.sum()[None], differences])
    rest = _rest(gram[1:, 1:], differences)
    free_found, *_ = _least_squares(gram[:last, :last], gram[:last, last], limit, sums.precision)
    free = torch.cat([(1 + free_found[0] - free_found[1:].sum())[None], free_found[1:]])
    free_rest = _rest(gram, free_found)
    longest = math.sqrt(max(0.0, float(gram.diagonal()[1:].max())))
    explained = float(noise[-1] + (shares.abs() * noise[:-1]).sum() + cut) + sums.precision**0.5 * longest
    scale = length or 1.0
    return Shares(
        tuple(shares.tolist()),
        tuple(free.tolist()),
        rest / scale,
        free_rest / scale,
        explained / scale,
        _groups(loose),
        sums.numel,
        float(noise[-1]) / shortest + sums.precision * (longest / shortest) ** 2 if shortest else 0.0,
    )


def _limit(noise: Tensor, numel: int) -> float:
    """The squared length of a difference of candidates that cannot be told from rounding.

    Below the rounding of the two nothing can be told. In a small block the error of a share, ``rounding / (length *
    sqrt(numel))``, must also stay below ``SURE``.
    """
    error = float(noise[-1] + noise[:-1].max())
    return error**2 * max(1.0, 1 / (SURE**2 * max(1, numel)))


def _least_squares(
    normal: Tensor, right: Tensor, limit: float, precision: float
) -> tuple[Tensor, Tensor, float, float]:
    """The solution of the normal equations, and the directions that they do not fix.

    Also the longest length that these leave out, and the shortest that is used (0 when none is).
    """
    values, vectors = torch.linalg.eigh(normal)
    kept = values > max(limit, len(values) * precision * float(values[-1:].sum()))
    held, loose = vectors[:, kept], vectors[:, ~kept]
    left = float(values[~kept].clamp(min=0).max().sqrt()) if loose.shape[1] else 0.0
    shortest = float(values[kept].min().sqrt()) if held.shape[1] else 0.0
    return held @ ((held.T @ right) / values[kept]), loose, left, shortest


def _rest(gram: Tensor, found: Tensor) -> float:
    """The length of what a solution leaves of the last column."""
    signed = torch.cat([found, -torch.ones(1, dtype=found.dtype)])
    return math.sqrt(max(0.0, float(signed @ gram @ signed)))


def _groups(loose: Tensor) -> tuple[tuple[int, ...], ...]:
    """The candidates that the directions hold, those that hang together in one group."""
    if not loose.shape[1]:
        return ()
    whole = torch.cat([-loose.sum(0, keepdim=True), loose])
    whole, _ = torch.linalg.qr(whole)
    linked = (whole @ whole.T).abs() > INVOLVED
    groups: list[set[int]] = []
    for row in range(len(linked)):
        members = {int(i) for i in linked[row].nonzero()}
        if len(members) < 2:
            continue
        joined = [group for group in groups if group & members]
        groups = [group for group in groups if not group & members] + [members.union(*joined)]
    return tuple(sorted(tuple(sorted(group)) for group in groups))
