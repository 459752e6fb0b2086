"""Noise schedules and timestep lists: the cosine and linear tables, respacing strings, IF's named lists."""

import math

import torch
from torch import Tensor

TIMESTEPS = 1000

# Steps per equal section of the process, lowest noise first; the names are IF's.
NAMED_SPACINGS = {
    "fast27": "10,10,3,2,2",
    "smart27": "7,4,2,1,2,4,7",
    "smart50": "10,6,4,3,2,2,3,4,6,10",
    "smart100": "1,1,1,1,2,2,2,2,2,2,3,3,4,4,5,5,6,7,7,8,9,10,13",
    "smart185": "1,1,2,2,2,3,3,3,4,5,6,7,8,9,10,11,12,13,14,15,16,18,20",
    "super27": "1,1,1,1,1,1,1,2,5,13",
    "super40": "2,2,2,2,2,2,3,4,6,15",
    "super100": "4,4,6,6,8,8,10,10,14,30",
}


def respaced_timesteps(spec: str, steps: int = TIMESTEPS) -> list[int]:
    """The timesteps, highest first, that a spacing (respacing string) selects from ``steps`` timesteps.

    ``"n1,n2,..."`` divides the timesteps into as many equal sections as there are numbers, lowest noise
    first, and selects that many evenly from each, ends included; ``"150"`` is one section;
    ``"ddim50"`` uses an integer stride; a name in ``NAMED_SPACINGS`` means its string.
    ValueError for anything else. Improved DDPM (arXiv 2102.09672), section 4.
    """
    text = NAMED_SPACINGS.get(spec.strip(), spec.strip())
    if text.startswith("ddim"):
        return _strided(text, steps)
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(_unreadable(spec)) from None
    if any(count < 0 for count in counts) or sum(counts) == 0:
        raise ValueError(f"{_unreadable(spec)} No count may be negative, and one has to be above 0.")
    picked: set[int] = set()
    start = 0
    for index, count in enumerate(counts):
        size = steps // len(counts) + (index < steps % len(counts))
        if count > size:
            raise ValueError(
                f"The spacing {spec!r} asks for {count} timesteps in section {index + 1}, which holds {size} of the "
                f"{steps}. Use at most {size} there."
            )
        picked.update(start + offset for offset in _spread(size, count))
        start += size
    return sorted(picked, reverse=True)


def trailing(timesteps: list[int], denoise: float) -> list[int]:
    """The last ``denoise`` share (0 to 1) of a timestep list: where image-to-image starts."""
    if not 0.0 <= denoise <= 1.0:
        raise ValueError(f"The denoise value is {denoise}. It has to be between 0 and 1.")
    kept = min(int(len(timesteps) * denoise), len(timesteps))
    return timesteps[len(timesteps) - kept :]


def cosine_betas(steps: int = TIMESTEPS) -> Tensor:
    """The cosine schedule's betas (float64, ``steps``), used by every IF stage; arXiv 2102.09672, eq. 17."""

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((i + 1) / steps) / f(i / steps), 0.999) for i in range(steps)]
    return torch.tensor(betas, dtype=torch.float64)


def linear_betas(steps: int = TIMESTEPS) -> Tensor:
    """The linear schedule's betas (float64, ``steps``), 1e-4 to 0.02; Imagen's 256 to 1024 stage."""
    scale = 1000 / steps
    return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)


SCHEDULES = {"cosine": cosine_betas, "linear": linear_betas}


def alphas_cumprod(schedule: str = "cosine", steps: int = TIMESTEPS) -> Tensor:
    """``abar_t``, the signal's share of variance at each timestep (float64, ``steps``)."""
    if schedule not in SCHEDULES:
        raise ValueError(f"Unknown schedule {schedule!r}. Available: {', '.join(SCHEDULES)}.")
    return torch.cumprod(1 - SCHEDULES[schedule](steps), dim=0)


def sigmas(schedule: str = "cosine", steps: int = TIMESTEPS) -> Tensor:
    """Noise to signal ratio ``sqrt((1 - abar) / abar)`` at each timestep (float32, ``steps``)."""
    abar = alphas_cumprod(schedule, steps)
    return ((1 - abar) / abar).sqrt().float()


def _spread(size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1
    offsets, position = [], 0.0
    for _ in range(count):
        offsets.append(round(position))
        position += stride  # summed, not multiplied, because the released lists round the running sum
    return offsets


def _strided(text: str, steps: int) -> list[int]:
    digits = text.removeprefix("ddim")
    wanted = int(digits) if digits.isdecimal() else 0
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == wanted:
            return list(range(0, steps, stride))[::-1]
    raise ValueError(
        f"The spacing {text!r} is not valid: no even stride gives that many of {steps} timesteps. Use a count, for "
        f"example '50'."
    )


def _unreadable(spec: str) -> str:
    return (
        f"The spacing {spec!r} is not valid. Give counts per section ('10,10,3,2,2'), one count ('150'), 'ddim' "
        f"and a count ('ddim50'), or one of {', '.join(NAMED_SPACINGS)}."
    )
