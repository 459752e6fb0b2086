"""Samples with the demo models' pixel stages in this process: the pack's own loader, sampler and thresholds."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from blockwork.cascade import low_res
from blockwork.cascade.host_cascade import as_images, sampled, with_low_res
from blockwork.cascade.host_load import prepared_stage
from blockwork.cascade.host_model import LowRes
from blockwork.cascade.host_sampler import LearnedRangeSampler, stage_sigmas
from blockwork.cascade.host_threshold import Threshold, with_threshold
from blockwork.demo_models import drawing
from blockwork.demo_models.stages import stage_file
from torch import Tensor

from . import sampling

SMALL, LARGE = drawing.CELLS, drawing.SMALL
SPACING, UPSCALE = "smart27", "super27"  # IF's own lists of timesteps
DENOISE = 0.7  # of stage II's list: it starts from the enlarged image, as its colours drift from noise alone
THRESHOLDS = {
    "none": Threshold("none"),
    "static": Threshold("static", bound="pixels"),
    "dynamic 0.9": Threshold("dynamic", 0.9, bound="pixels"),
    "dynamic 0.95": Threshold("dynamic", 0.95, bound="pixels"),
    "dynamic 0.995": Threshold("dynamic", 0.995, bound="pixels"),
}


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
    guidance: float = 4.0,
    augmentation: float = 0.25,
    spacing: str = UPSCALE,
    seed: int = 1,
    denoise: float = DENOISE,
) -> Tensor:
    """Stage II: ``n 3 16 16`` to ``n 3 64 64``, clipped to -1..1 first as any image between two nodes is."""
    below = below.clamp(-1, 1)
    low = LowRes(below, augmentation)
    positive, negative = (with_low_res(cond, low) for cond in (sampling.together(prompts), sampling.said("")))
    model = stage("II")
    return sampled(
        model, positive, negative, guidance, LearnedRangeSampler(), stage_sigmas(model, spacing, denoise),
        low_res.enlarge(below, LARGE, LARGE), seed,
    )  # fmt: skip


def images(pictures: Tensor) -> Tensor:
    """As ComfyUI's IMAGE, ``n h w 3`` in 0..1."""
    return as_images(pictures)


def saturated(pictures: Tensor) -> Tensor:
    """Per image the share of pixels of which a channel is within one level of 256 of the range's ends, or beyond.

    Nothing in the drawn world is.
    """
    return (pictures.abs() >= 1 - 1 / 255).any(1).float().mean((1, 2))
