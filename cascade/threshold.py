"""Keeps a predicted image in range: static and dynamic thresholding (Imagen, arXiv 2205.11487, 2.3).

``static_threshold`` and ``dynamic_threshold`` are the paper's, for pixels in [-1, 1]. ``matched_threshold``
is for latents, which have no fixed range: it uses the range of the conditional prediction as the bound.
"""

import math

import torch
from torch import Tensor


def static_threshold(x0: Tensor) -> Tensor:
    """``x0`` (any shape and float dtype) clipped to [-1, 1]; Imagen section 2.3."""
    return x0.clamp(-1.0, 1.0)


def dynamic_threshold(x0: Tensor, percentile: float = 0.995, cap: float | None = None) -> Tensor:
    """Clip each sample of ``x0`` (``b ...``) to its own percentile ``s`` of ``|x0|`` and divide by ``s``.

    ``s`` is at least 1 and at most ``cap`` (None: no upper bound, as in Imagen; IF uses 1.5 in stage I).
    With ``cap`` 1 this is static thresholding, and no percentile is computed. A sample whose percentile
    is not finite is clipped statically. ValueError for a percentile outside [0, 1] or a cap below 1.
    """
    check(percentile, cap)
    if cap == 1.0:
        return static_threshold(x0)
    x = x0 if x0.dtype == torch.float64 else x0.float()
    s = quantile(x.abs().flatten(1), percentile)
    s = torch.where(s.isfinite(), s, 1.0).clamp(1.0, cap).view(-1, *[1] * (x.ndim - 1))
    return (x.clamp(-s, s) / s).to(x0.dtype)


def matched_threshold(
    x0: Tensor,
    conditional: Tensor,
    percentile: float = 0.995,
    cap: float | None = None,
    *,
    static: bool = False,
    per_channel: bool = False,
) -> Tensor:
    """Threshold a guided prediction ``x0`` (``b c ...``) to the range of its ``conditional`` prediction.

    Both are centred on their mean per sample and channel. ``r`` is the percentile of the centred
    conditional's magnitude and replaces Imagen's 1: ``s = clamp(percentile(|d|), r, cap * r)``,
    result ``mean + clip(d, -s, s) * r / s``; ``static`` clips to ``r`` without rescaling. Percentiles are
    taken per sample, or per sample and channel. For zero-mean input with ``r = 1`` this is
    ``dynamic_threshold``. With a constant conditional, ``x0`` is returned unchanged.
    """
    check(percentile, cap)
    d, mean = _centred(x0)
    reference, _ = _centred(conditional)
    dims = 2 if per_channel else 1
    shape = [*x0.shape[:dims], *[1] * (x0.ndim - dims)]
    r = quantile(reference.abs().reshape(math.prod(x0.shape[:dims]), -1), percentile).view(shape)
    if static or cap == 1.0:
        s = r
    else:
        s = quantile(d.abs().reshape(math.prod(x0.shape[:dims]), -1), percentile).view(shape)
        s = s.maximum(r) if cap is None else s.clamp(r, cap * r)
    usable = r.isfinite() & (r > 0) & s.isfinite()
    out = mean + d.clamp(-s, s) * (r / s)
    return torch.where(usable, out, x0.to(out.dtype)).to(x0.dtype)


def quantile(x: Tensor, q: float) -> Tensor:
    """The ``q`` quantile of each row of ``x`` (``b n`` -> ``b``), linearly interpolated, without a full sort.

    The same convention as ``torch.quantile`` (Hyndman and Fan type 7), without its limit of 2**24 elements.
    """
    rank = q * (x.shape[1] - 1)
    below = math.floor(rank)
    if x.device.type == "cpu":
        low, high = _neighbours_by_partition(x, below)
    else:
        low, high = _neighbours_by_topk(x, below)
    return torch.lerp(low, high, rank - below)


def saturation(x0: Tensor, bound: float = 1.0) -> Tensor:
    """The share of each sample's values (``b ...`` -> ``b``) at or beyond ``bound`` in magnitude."""
    return (x0.abs() >= bound).float().flatten(1).mean(1)


def _neighbours_by_partition(x: Tensor, below: int) -> tuple[Tensor, Tensor]:
    above = min(below + 1, x.shape[1] - 1)
    rows = x.detach().numpy().copy()
    rows.partition([below, above], axis=1)
    return torch.from_numpy(rows[:, below].copy()), torch.from_numpy(rows[:, above].copy())


def _neighbours_by_topk(x: Tensor, below: int) -> tuple[Tensor, Tensor]:
    count = x.shape[1]
    if below + 1 >= count:
        largest = x.amax(1)
        return largest, largest
    upper_part = count - below <= below + 2
    kept = x.topk(count - below if upper_part else below + 2, largest=upper_part, sorted=False).values
    pair = kept.topk(2, largest=not upper_part).values
    low, high = pair.amin(1), pair.amax(1)
    return low, high


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x if x.dtype == torch.float64 else x.float()
    mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
    return x - mean, mean


def check(percentile: float, cap: float | None) -> None:
    """ValueError for a percentile outside [0, 1] or a cap below 1."""
    if not 0.0 <= percentile <= 1.0:
        raise ValueError(f"The percentile is {percentile}. It has to be between 0 and 1. Imagen uses 0.995.")
    if cap is not None and not cap >= 1.0:
        raise ValueError(
            f"The cap is {cap}. It has to be at least 1; 1 is static thresholding. IF's stage I uses 1.5."
        )
