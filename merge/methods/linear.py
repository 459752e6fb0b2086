"""Linear methods: every output element is a fixed linear combination of the inputs' elements."""

import math

import torch
from torch import Tensor

from .registry import between, method, rounds_once

HALVES = (torch.float16, torch.bfloat16)


@method(
    "weighted_sum",
    "Weighted sum",
    "alpha",
    models=2,
    identity={"alpha": 0.0},
    chooses=(({"alpha": 1.0}, 1),),
    formula="A + {alpha} (B - A)",
    source="kohya_ss, merge_block_weighted; torch.lerp as in sd-mecha",
)
def weighted_sum(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) A + alpha B with ``torch.lerp`` in fp32; 0 returns A itself, 1 B in A's dtype.

    On the CPU torch's own half-precision lerp computes in fp32 and rounds once: the same bits, no copies.
    """
    if alpha == 0:
        return a
    if alpha == 1:
        return b.to(a.dtype)
    if a.dtype == b.dtype and (a.dtype == torch.float32 or (a.dtype in HALVES and a.device.type == "cpu")):
        return torch.lerp(a, b, alpha)
    return torch.lerp(a.float(), b.float(), alpha).to(a.dtype)


@method(
    "each",
    "M_A A + M_B B",
    "m_a m_b",
    models=2,
    identity={"m_a": 1.0, "m_b": 0.0},
    chooses=(({"m_a": 0.0, "m_b": 1.0}, 1),),
    formula="{m_a} A + {m_b} B",
    complement=("m_a", "m_b"),
    source="bbc-mc, mbw_each; arithmetic of ComfyUI's ModelMergeBlocks",
)
def each(a: Tensor, b: Tensor, m_a: float, m_b: float) -> Tensor:
    """M_A A + M_B B: both products and the sum rounded to fp32, then once to the dtype of A.

    The products are separate operations on purpose: ``torch.add(alpha=)`` fuses the second one, and the
    result would no longer equal ComfyUI's patcher bit for bit.
    """
    if (m_a, m_b) == (1, 0):
        return a
    if (m_a, m_b) == (0, 1):
        return b.to(a.dtype)
    return (a.float() * m_a).add_(b.float() * m_b).to(a.dtype)


@method(
    "add_difference",
    "Add difference",
    "alpha",
    models=3,
    identity={"alpha": 0.0},
    formula="A + {alpha} (B - C)",
    source="AUTOMATIC1111, extras.py; B - C in fp32, one fused multiply-add as in sd-mecha",
)
def add_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """A + alpha (B - C) in fp32, rounded once; 0 gives A's bits."""
    if alpha == 0:
        return a
    return torch.add(a.float(), b.float() - c.float(), alpha=alpha).to(a.dtype)


@method(
    "sum_twice",
    "Sum twice",
    "alpha beta",
    models=3,
    identity={"alpha": 0.0, "beta": 0.0},
    chooses=(
        ({"alpha": 1.0, "beta": 0.0}, 1),
        ({"beta": 1.0}, 2),
    ),
    source="supermerger, mode Twice",
)
@rounds_once
def sum_twice(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """(1 - beta) ((1 - alpha) A + alpha B) + beta C, the inner sum kept in fp32."""
    return torch.lerp(torch.lerp(a, b, alpha), c, beta)


@method(
    "triple_sum",
    "Triple sum",
    "alpha beta",
    models=3,
    identity={"alpha": 0.0, "beta": 0.0},
    chooses=(
        ({"alpha": 1.0, "beta": 0.0}, 1),
        ({"alpha": 0.0, "beta": 1.0}, 2),
    ),
    source="supermerger, mode Triple",
)
@rounds_once
def triple_sum(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """(1 - alpha - beta) A + alpha B + beta C."""
    return a * (1 - alpha - beta) + b * alpha + c * beta


def inverse_smoothstep(ratio: float) -> float:
    """0.5 - sin(asin(1 - 2 M) / 3): the M' whose smoothstep 3M'^2 - 2M'^3 is M; M must be in [0, 1]."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"The ratio is {ratio}. The sigmoid method takes ratios from 0 to 1.")
    return 0.5 - math.sin(math.asin(1 - 2 * ratio) / 3)


@method(
    "sigmoid",
    "Sigmoid (merge board)",
    "alpha",
    models=2,
    identity={"alpha": 0.0},
    chooses=(({"alpha": 1.0}, 1),),
    check=between(0, 1, "alpha"),
    source="bbc-mc, merge-board: weighted sum at the inverse smoothstep of M",
)
def sigmoid(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Weighted sum at 0.5 - sin(asin(1 - 2 alpha) / 3); alpha outside [0, 1] raises ValueError."""
    return weighted_sum(a, b, inverse_smoothstep(alpha))


@method(
    "average",
    "Average of all",
    "alpha",
    models=(2, None),
    identity={"alpha": 0.0},
    source="model soups, arXiv 2203.05482",
)
@rounds_once
def average(a: Tensor, *models: Tensor, alpha: float = 1.0) -> Tensor:
    """The mean of all models, A among them; ``alpha`` blends from A (0) to the mean (1)."""
    mean = a.clone()
    for model in models:
        mean += model
    return torch.lerp(a, mean / (1 + len(models)), alpha)


@method(
    "scale",
    "Scale one model",
    "alpha",
    models=1,
    identity={"alpha": 1.0},
    formula="{alpha} A",
    source="bbc-mc, mbw_each with M_B = 0 (the one-block study)",
)
@rounds_once
def scale(a: Tensor, alpha: float) -> Tensor:
    """alpha A: one fp32 product, rounded once."""
    return a * alpha
