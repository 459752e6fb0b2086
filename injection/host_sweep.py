"""Samples every stage of a block growth, with progress and interruption, and lays the pictures out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .conditioning import Conditioning
from .entries import Mode
from .host import prepare
from .host_change import change


@dataclass(frozen=True)
class Sampling:
    """The settings of a KSampler."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


def sample_stages(
    model: ModelPatcher,
    positive: Conditioning,
    prompt: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    vae: Any,
    stages: Sequence[tuple[str, str]],
    sampling: Sampling,
    mode: Mode = "replace",
    weight: float = 1.0,
) -> list[Tensor]:
    """One batch of images ``b h w c`` per stage, each from the same noise; nothing is written."""
    model = prepare(model)
    source = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(source, sampling.seed, latent.get("batch_index"))
    report = _Progress(model, len(stages), sampling.steps)
    images = []
    for number, (_, spec) in enumerate(stages):
        report.stage = number
        grown = change(model, prompt, spec, mode=mode, weight=weight).on(positive) if spec else positive
        samples = comfy.sample.sample(
            model,
            noise,
            sampling.steps,
            sampling.cfg,
            sampling.sampler_name,
            sampling.scheduler,
            grown,
            negative,
            source,
            denoise=sampling.denoise,
            noise_mask=latent.get("noise_mask"),
            callback=report,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=sampling.seed,
        )
        images.append(vae.decode(samples))
    return images


class _Progress:
    """The sampler's callback: one bar over all stages, with previews, and an end when the user stops."""

    def __init__(self, model: ModelPatcher, stages: int, steps: int):
        self.bar = comfy.utils.ProgressBar(stages * steps)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self.steps, self.stage = steps, 0

    def __call__(self, step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if self.previewer:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", denoised)
        done = self.stage * self.steps + round((step + 1) / total * self.steps)
        self.bar.update_absolute(done, preview=preview)
