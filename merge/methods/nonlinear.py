"""Methods that bend: ratios that depend on the weights themselves."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .measure import dot
from .registry import between, method, rounds_once

TRAIN_GAIN = 1.8  # supermerger's constant: full strength of a difference trained on another base


@method(
    "train_difference",
    "Train difference",
    "alpha",
    models=3,
    identity={"alpha": 0.0},
    hides_nan=True,
    source="supermerger, trainDifference",
)
@rounds_once
def train_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """A + 1.8 alpha (B - C) |B - A| / (|B - C| + |B - A|): as if A itself had been trained from C to B."""
    change, distance = b - c, (b - a).abs()
    share = distance / (change.abs() + distance)
    return a + (TRAIN_GAIN * alpha) * change * share.nan_to_num(nan=0.0)  # 0 / 0: B = C = A


@method(
    "geometric",
    "Geometric",
    "alpha",
    models=2,
    identity={"alpha": 0.0},
    chooses=(({"alpha": 1.0}, 1),),
    source="sd-mecha geometric_sum (real part of the complex power), Chattiori",
)
@rounds_once
def geometric(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Re(A^(1 - alpha) B^alpha) on the principal branch; elements of like sign keep it, others rotate."""
    size = a.abs() ** (1 - alpha) * b.abs() ** alpha
    angle = math.pi * ((a < 0) * (1 - alpha) + (b < 0) * alpha)
    return size * torch.cos(angle)


def _slerp_shares(tensors: Sequence[Tensor], numbers: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """The shares of A and B, or none where the two have no plane to turn in."""
    a, b, alpha = tensors[0], tensors[1], numbers["alpha"]
    norm_a, norm_b = math.sqrt(dot(a, a)), math.sqrt(dot(b, b))
    if norm_a == 0 or norm_b == 0:
        return {"shares": ()}
    omega = math.acos(max(-1.0, min(1.0, dot(a, b) / (norm_a * norm_b))))
    if math.sin(omega) < 1e-6:
        return {"shares": ()}
    norm = (norm_a + alpha * (norm_b - norm_a)) / math.sin(omega)
    return {
        "shares": (math.sin((1 - alpha) * omega) * norm / norm_a, math.sin(alpha * omega) * norm / norm_b)
    }


@method(
    "slerp",
    "SLERP",
    "alpha",
    models=2,
    identity={"alpha": 0.0},
    chooses=(({"alpha": 1.0}, 1),),
    elementwise=False,
    measure=_slerp_shares,
    source="Shoemake 1985 on directions, norms interpolated linearly (sd-mecha slerp)",
)
@rounds_once
def slerp(a: Tensor, b: Tensor, alpha: float, shares: tuple[float, ...] | None = None) -> Tensor:
    """Turn A's direction towards B's by the share alpha of their angle; norms go linearly.

    Parallel, opposite or zero tensors have no plane to turn in: they get the weighted sum. ``shares`` are those of A
    and B, where a and b are pieces of larger tensors.
    """
    if shares is None:
        shares = _slerp_shares((a, b), {"alpha": alpha})["shares"]
    return a * shares[0] + b * shares[1] if shares else torch.lerp(a, b, alpha)


@method(
    "extract",
    "Extract features",
    "alpha beta",
    models=3,
    identity=None,
    options={"gamma": 1.0},
    check=between(0, math.inf, "gamma"),
    elementwise=False,
    source="supermerger, extract_super",
)
@rounds_once
def extract(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float, gamma: float = 1.0) -> Tensor:
    """A + lerp(B - A, C - A, alpha) lerp(d, 1 - d, beta), d = ((cos + 1) / 2)^gamma along the last dimension.

    beta 0 keeps what the two differences share, beta 1 what sets them apart; gamma sharpens the choice.
    """
    b, c = b - a, c - a
    likeness = (
        torch.cosine_similarity(b, c, dim=-1).clamp(-1, 1).unsqueeze(-1) if a.ndim else torch.sign(b * c)
    )
    shared = ((likeness + 1) / 2) ** gamma
    return a + torch.lerp(b, c, alpha) * torch.lerp(shared, 1 - shared, beta)


@method(
    "similarity_add_difference",
    "Similarity add difference",
    "alpha beta",
    models=3,
    identity={"alpha": 0.0},
    hides_nan=True,
    source="meh, similarity_add_difference",
)
@rounds_once
def similarity_add_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """(1 - s)(A + alpha (B - C)) + s lerp(A, B, alpha / 2), s = beta (A B / max(|A|, |B|)^2 + 1) / 2."""
    largest = torch.maximum(a.abs(), b.abs())
    likeness = ((a * b / largest**2 + 1) / 2).nan_to_num(nan=1.0)  # 0 / 0: both are zero, hence alike
    return torch.lerp(a + alpha * (b - c), torch.lerp(a, b, alpha / 2), beta * likeness)
