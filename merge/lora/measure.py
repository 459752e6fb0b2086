"""The size of a LoRA's change per tensor: exact Frobenius norm and effective rank, without the dense product.

For ``B A`` with ``B = Q_b R_b`` and ``A^T = Q_a R_a`` the singular values are those of the small ``R_b R_a^T``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """One tensor's change: Frobenius norm, and effective rank ``exp(H)`` of its energy (None: not measured)."""

    norm: float
    rank: float | None = None


def spectrum(up: Tensor, down: Tensor) -> Tensor:
    """Singular values of ``up @ down`` (``n r`` and ``r m``), float64, from r x r matrices."""
    r_up = torch.linalg.qr(up.double(), mode="r").R
    r_down = torch.linalg.qr(down.double().T, mode="r").R
    return torch.linalg.svdvals(r_up @ r_down.T)


def low_rank(up: Tensor, down: Tensor, scale: float) -> Change:
    """The change ``scale * up @ down``; trailing dimensions of convolutions are flattened."""
    values = spectrum(up.flatten(1), down.flatten(1)) * abs(scale)
    return Change(float(values.square().sum().sqrt()), effective_rank(values))


def hadamard(factors: Sequence[tuple[Tensor, Tensor]], scale: float) -> Change:
    """LoHa's ``scale * (A1 B1) * (A2 B2)``: a product of rank r1 r2 whose factors are row-wise products."""
    (a1, b1), (a2, b2) = ((a.double(), b.double()) for a, b in factors)
    up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
    return low_rank(up, down, scale)


def kronecker(first: Tensor, second: Tensor, scale: float) -> Change:
    """LoKr's ``scale * kron(first, second)``: its singular values are the products of theirs."""
    one = torch.linalg.svdvals(first.double().flatten(1))
    two = torch.linalg.svdvals(second.double().flatten(1))
    norm = abs(scale) * float(one.square().sum().sqrt() * two.square().sum().sqrt())
    both = (one[:, None] * two[None, :]).flatten() if second.ndim == 2 else None
    return Change(norm, None if both is None else effective_rank(both))


def dense(change: Tensor) -> Change:
    """A change that is at hand as a tensor."""
    return Change(float(change.double().square().sum().sqrt()))


def effective_rank(values: Tensor) -> float:
    """``exp`` of the entropy of the energies (squared singular values), 0 for no change (Roy and Vetterli 2007)."""
    energy = values.square()
    total = float(energy.sum())
    if not total:
        return 0.0
    share = energy / total
    return math.exp(-float(torch.special.xlogy(share, share).sum()))
