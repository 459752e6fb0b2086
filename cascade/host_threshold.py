"""Thresholding as a post-CFG patch: it sees x0, works with every model and sampler, and chains."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .threshold import check, dynamic_threshold, matched_threshold, static_threshold

MODES = ("none", "static", "dynamic")
BOUNDS = ("auto", "pixels", "conditional")

# Model sampling -> fraction of the run -> noise level: working one out waits for the GPU, so it is done once.
_LEVELS: WeakKeyDictionary[Any, dict[float, float]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Threshold:
    """How to keep x0 in range; ValueError for settings that are not valid.

    ``bound`` is the range: [-1, 1] for ``"pixels"``, the range of the conditional prediction for
    ``"conditional"`` (latents), or the one that fits the model for ``"auto"``. ``blend`` 0 returns x0 unchanged.
    ``start`` and ``end`` are fractions of the sampling run, 0 its first step.
    """

    mode: str = "dynamic"
    percentile: float = 0.995
    cap: float | None = None
    bound: str = "auto"
    per_channel: bool = False
    blend: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check(self.percentile, self.cap)
        if self.start > self.end:
            raise ValueError(
                f"Thresholding starts at {self.start} of the run and ends at {self.end}. The start has to come "
                "first. Lower start_percent or raise end_percent."
            )

    def apply(self, x0: Tensor, conditional: Tensor, in_pixels: bool) -> Tensor:
        """``x0`` (``b c ...``) thresholded, blended with itself."""
        if not in_pixels:
            out = matched_threshold(
                x0,
                conditional,
                self.percentile,
                self.cap,
                static=self.mode == "static",
                per_channel=self.per_channel,
            )
        elif self.mode == "static":
            out = static_threshold(x0)
        else:
            out = dynamic_threshold(x0, self.percentile, self.cap)
        return out if self.blend == 1.0 else x0.lerp(out, self.blend)


class ThresholdPatch:
    """The post-CFG function; ``default`` marks the one that a loader attached, which a node replaces.

    At CFG 1 core passes zeros as the unconditional prediction; only the conditional one is read.
    """

    def __init__(self, threshold: Threshold, default: bool):
        self.threshold, self.default = threshold, default

    def __call__(self, args: dict[str, Any]) -> Tensor:
        threshold, model, x0 = self.threshold, args["model"], args["denoised"]
        in_pixels = threshold.bound == "pixels" or (
            threshold.bound == "auto" and works_in_pixels(model.latent_format)
        )
        out = threshold.apply(x0, args["cond_denoised"], in_pixels)
        if (threshold.start, threshold.end) == (0.0, 1.0):
            return out
        # Chosen on the device: reading sigma would wait for the GPU at every step.
        now, sampling = args["sigma"].max(), model.model_sampling
        acts = (_level(sampling, threshold.end) <= now) & (now <= _level(sampling, threshold.start))
        return torch.where(acts, out, x0)


def _level(sampling: Any, fraction: float) -> float:
    """The noise level at a fraction of a run."""
    levels = _LEVELS.setdefault(sampling, {})
    if fraction not in levels:
        levels[fraction] = float(sampling.percent_to_sigma(fraction))
    return levels[fraction]


def works_in_pixels(latent_format: Any) -> bool:
    """Whether a model's latents are pixels in [-1, 1]."""
    return latent_format.latent_channels == 3 and latent_format.spacial_downscale_ratio == 1


def with_threshold(model: Any, threshold: Threshold, default: bool = False) -> Any:
    """A clone of the MODEL with the threshold, which replaces a loader's default and comes after other patches."""
    model = model.clone()
    options = model.model_options
    options["sampler_post_cfg_function"] = [
        patch
        for patch in options.get("sampler_post_cfg_function", [])
        if not (isinstance(patch, ThresholdPatch) and patch.default)
    ]
    if threshold.mode != "none":
        model.set_model_sampler_post_cfg_function(ThresholdPatch(threshold, default))
    return model
