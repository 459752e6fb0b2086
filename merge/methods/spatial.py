"""Methods that look at where an element sits in its tensor."""

import torch
from torch import Tensor

from .registry import between, method, rounds_once


@method(
    "smooth_add",
    "Smooth add difference",
    "alpha",
    models=3,
    identity={"alpha": 0.0},
    elementwise=False,
    hides_nan=True,
    source="supermerger, smoothAdd",
)
@rounds_once
def smooth_add(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """A + alpha gauss_1(median_3(B - C)): outliers of the difference are filtered over all tensor dimensions.

    The filters are scipy's, mirrored at the borders as in supermerger; slow, minutes for a full model.
    """
    from scipy import ndimage  # one method needs it, and it takes 0.2 s to import

    change = (b - c).cpu()
    if change.ndim:
        smooth = ndimage.gaussian_filter(ndimage.median_filter(change.numpy(), size=3), sigma=1)
        change = torch.from_numpy(smooth)
    return a + alpha * change.to(a.device)


@method(
    "tensor_sum",
    "Tensor sum (rows)",
    "alpha beta",
    models=2,
    identity={"alpha": 0.0},
    elementwise=False,
    check=between(0, 1, "alpha", "beta"),
    hides_nan=True,
    source="supermerger, tensor",
)
def tensor_sum(a: Tensor, b: Tensor, alpha: float, beta: float) -> Tensor:
    """Rows [beta n, (alpha + beta) n) of A replaced by B's, wrapping round at n; nothing is rounded.

    alpha and beta must be from 0 to 1.
    """
    out = a.clone()
    if a.ndim == 0:
        return out
    end = alpha + beta
    for start, stop in [(beta, end)] if end <= 1 else [(beta, 1.0), (0.0, end - 1)]:
        rows = slice(
            *(int(a.shape[0] * share + 1e-9) for share in (start, stop))
        )  # 0.7 + 0.5 - 1 is 0.2 less a bit
        out[rows] = b[rows].to(a.dtype)
    return out
