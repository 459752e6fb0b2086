"""Samples with the demo models' pixel stages in this process: the pack's own loader, sampler and thresholds."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from blockwork.cascade.host_cascade import as_images, sampled, with_low_res
from blockwork.cascade.host_load import prepared_stage
from blockwork.cascade.host_model import LowRes
from blockwork.cascade.host_sampler import LearnedRangeSampler, stage_sigmas
from blockwork.cascade.host_threshold import Threshold, with_threshold
from blockwork.cascade.low_res import enlarge
from blockwork.demo_models.stages import stage_file
from torch import Tensor

from . import sampling

SMALL, LARGE = 16, 64
# One list starts at 96 % of the schedule, one at its very end, as IF's own do: there the guess of the picture is the error
# in the noise times thousands, and without a threshold every run is lost whatever the guidance.
SPACING, WHOLE = "ddim25", "25"
# Stage II starts from the enlarged picture, noised to half of the schedule (to mend it) or to 90 % (to redraw it). From
# noise alone the little network believes the noise's mean, which is grey, more than the picture from below.
MEND, REDRAW = "5,2,1,1,1,1,0,0,0,0", "5,2,1,1,1,1,1,1,1,1"


@functools.cache
def stage(which: str) -> Any:
    """The MODEL of stage ``"I"`` or ``"II"`` with its default threshold."""
    return prepared_stage(str(stage_file(which)))


def drawn(
    prompts: Sequence[str],
    guidance: float,
    threshold: Threshold | None = None,
    seed: int = 1,
    sampler: Any = None,
    spacing: str = SPACING,
) -> Tensor:
    """Stage I: a picture ``3 16 16`` per prompt as it leaves the sampler, in -1..1 unless out of range."""
    model = stage("I") if threshold is None else with_threshold(stage("I"), threshold)
    return sampled(
        model, sampling.together(prompts), sampling.said(""), guidance, sampler or LearnedRangeSampler(),
        stage_sigmas(model, spacing), torch.zeros(len(prompts), 3, SMALL, SMALL), seed,
    )  # fmt: skip


def enlarged(
    below: Tensor,
    prompts: Sequence[str],
    guidance: float = 1.0,
    augmentation: float = 0.1,
    spacing: str = MEND,
    seed: int = 1,
) -> Tensor:
    """Stage II: ``n 3 16 16`` to ``n 3 64 64``, clipped to -1..1 first as any image between two nodes is."""
    low = LowRes(below.clamp(-1, 1), augmentation)
    positive, negative = (with_low_res(cond, low) for cond in (sampling.together(prompts), sampling.said("")))
    model = stage("II")
    return sampled(
        model, positive, negative, guidance, LearnedRangeSampler(), stage_sigmas(model, spacing),
        enlarge(low.image, LARGE, LARGE), seed,
    )  # fmt: skip


def images(pictures: Tensor) -> Tensor:
    """As ComfyUI's IMAGE, ``n h w 3`` in 0..1."""
    return as_images(pictures)


def saturated(pictures: Tensor) -> float:
    """The share of pixels of which a channel is at the end of the range (within one level of 256) or beyond it.

    Nothing in the drawn world is: its whitest background is 244 of 255, its blackest 22.
    """
    return float((pictures.abs() >= 1 - 1 / 255).any(1).float().mean())
