"""Low-rank factors of a difference, and of a sum of LoRAs: balanced, of a fixed rank or by energy.

Small matrices take the full SVD. Large ones a randomised range finder with power iterations (Halko, Martinsson and
Tropp 2011, algorithm 4.4), whose error stays within a few per mille of the best one at the same rank.
"""

import math

import torch
from torch import Tensor

FULL = 1024  # the smaller side up to which the full SVD is taken
OVERSAMPLE, POWER = 32, 4


def svd(matrix: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The leading ``rank`` singular vectors and values of an ``n m`` matrix, float32: ``U (n k), S (k), V (m k)``."""
    matrix = matrix.float()
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= FULL or rank + OVERSAMPLE >= min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vh[:rank].T
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(matrix.shape[1], rank + OVERSAMPLE, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ probe).Q
    for _ in range(POWER):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], vh[:rank].T


def factors(difference: Tensor, rank: int, energy: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``up (n k)`` and ``down (k m)`` whose product is the best approximation of rank k <= ``rank``.

    ``energy`` below 1 takes the smallest k whose squared singular values reach that share of the whole. Trailing
    dimensions are flattened. The factors share the singular values, so that both have a small range in half precision.
    """
    matrix = difference.flatten(1)
    u, s, v = svd(matrix, rank, seed)
    total = float(matrix.double().square().sum())
    floor = s[0] * max(matrix.shape) * torch.finfo(torch.float32).eps if len(s) else 0
    count = max(1, int((s > floor).sum()))
    if energy < 1 and total:
        reached = s.double().square().cumsum(0) / total
        count = min(count, int((reached < energy).sum()) + 1)
    root = s[:count].sqrt()
    return u[:, :count] * root, (v[:, :count] * root).T


def truncated(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of rank ``rank`` of ``up @ down``, from small matrices only (exact)."""
    if up.shape[1] <= rank:
        return up, down
    q_up, r_up = torch.linalg.qr(up.double())
    q_down, r_down = torch.linalg.qr(down.double().T)
    u, s, vh = torch.linalg.svd(r_up @ r_down.T)
    root = s[:rank].sqrt()
    return (q_up @ u[:, :rank] * root).float(), (root[:, None] * vh[:rank] @ q_down.T).float()


def error(difference: Tensor, up: Tensor, down: Tensor) -> tuple[float, float]:
    """Squared norms of ``difference - up @ down`` and of ``difference``, float64 sums."""
    matrix = difference.flatten(1).float()
    rest = matrix - up.float() @ down.float()
    return float(rest.double().square().sum()), float(matrix.double().square().sum())


def relative(squares: tuple[float, float]) -> float:
    """|error| / |difference|; 0 for no difference."""
    return math.sqrt(squares[0] / squares[1]) if squares[1] else 0.0
