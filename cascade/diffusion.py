"""One step of the DDPM sampler with a learned range of variances (arXiv 2102.09672, section 3.1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-20


class StepCoefficients(NamedTuple):
    """Weights of ``x0`` and ``x`` in a step's mean, and the bounds of its log variance."""

    x0: float
    x: float
    log_low: float
    log_high: float


def step_coefficients(abar: float, abar_next: float) -> StepCoefficients:
    """Coefficients of the step from signal share ``abar`` to ``abar_next`` (1 at the end of the list).

    The posterior of DDPM (arXiv 2006.11239, equations 6 and 7) with ``beta = 1 - abar / abar_next``,
    which is what respacing a schedule amounts to.
    """
    alpha = abar / abar_next
    beta = 1 - alpha
    noise, noise_next = 1 - abar, 1 - abar_next
    return StepCoefficients(
        x0=math.sqrt(abar_next) * beta / noise,
        x=math.sqrt(alpha) * noise_next / noise,
        log_low=math.log(max(noise_next / noise * beta, VARIANCE_FLOOR)),
        log_high=math.log(max(beta, VARIANCE_FLOOR)),
    )


def learned_range_step(
    x: Tensor, x0: Tensor, v: Tensor, noise: Tensor | None, coefficients: StepCoefficients
) -> Tensor:
    """Go from ``x`` (``b c h w``) towards ``x0``, the thresholded prediction; the next, less noisy ``x``.

    ``v`` interpolates the log variance, -1 being the posterior's and 1 the forward process's; it is not
    clamped. Without ``noise``, as in the last step, the mean is returned.
    """
    mean = coefficients.x0 * x0 + coefficients.x * x
    if noise is None:
        return mean
    share = (v + 1) / 2
    log_variance = share * coefficients.log_high + (1 - share) * coefficients.log_low
    return torch.addcmul(mean, torch.exp(0.5 * log_variance), noise)
