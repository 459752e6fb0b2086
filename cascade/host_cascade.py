"""The whole cascade from file names: T5, then each stage, one in memory at a time."""

from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from .host_check import checked_stage, checked_t5, checked_upscaler
from .host_files import CHECKPOINTS, locate
from .host_load import prepared_stage
from .host_memory import Ledger, alone
from .host_model import LOW_RES, LowRes
from .host_sampler import LearnedRangeSampler, stage_sigmas
from .host_t5 import load_t5
from .host_text import TextCache, encode
from .host_threshold import Threshold
from .low_res import check as check_low_res

LEARNED_RANGE = "learned_range"
SAMPLERS = (LEARNED_RANGE, *comfy.samplers.SAMPLER_NAMES)
SCHEDULERS = tuple(comfy.samplers.SCHEDULER_NAMES)
TEXTS = TextCache()


@dataclass(frozen=True)
class Stage:
    """One pixel stage of a cascade: its file and how to sample it; a prompt of None uses the cascade's."""

    file: str
    spacing: str = "smart50"
    cfg: float = 7.0
    sampler: str = LEARNED_RANGE
    threshold: Threshold | None = None
    schedule: str = "cosine"
    weight_dtype: str = "default"
    prompt: str | None = None
    negative: str | None = None
    scale: float = 4.0
    aug_level: float = 0.25
    fresh_noise: bool = False
    blur: float = 0.0

    def __post_init__(self) -> None:
        check_low_res(self.aug_level, self.blur)
        if not self.scale >= 1.0:
            raise ValueError(
                f"The scale is {self.scale}. It has to be at least 1. The released stages use 4."
            )

    def sample(self, model: Any, positive: Any, negative: Any, job: "Job", below: Tensor | None) -> Tensor:
        """The stage's image (``b 3 h w`` in [-1, 1]), from the image of the stage below if there is one."""
        if below is None:
            latent = torch.zeros(job.batch, 3, job.height, job.width)
        else:
            latent = empty_above(below, self.scale)
            positive, negative = (
                with_low_res(cond, LowRes(below, self.aug_level, self.fresh_noise, self.blur))
                for cond in (positive, negative)
            )
        sampler = (
            LearnedRangeSampler()
            if self.sampler == LEARNED_RANGE
            else comfy.samplers.sampler_object(self.sampler)
        )
        return sampled(
            model, positive, negative, self.cfg, sampler, stage_sigmas(model, self.spacing), latent, job.seed
        )


@dataclass(frozen=True)
class LatentUpscaler:
    """Core's Stable Diffusion x4 upscaler as the last stage, with its own text encoder and VAE."""

    file: str
    steps: int = 75
    cfg: float = 9.0
    sampler: str = "ddim"
    scheduler: str = "normal"
    noise: float = 20 / 350
    prompt: str | None = None
    negative: str | None = None


@dataclass(frozen=True)
class Job:
    """One run of a cascade: prompts, the size of stage I in pixels, the number of images, the seed, T5's settings."""

    t5: str
    prompt: str
    negative: str = ""
    width: int = 64
    height: int = 64
    batch: int = 1
    seed: int = 0
    clean_caption: bool = False
    t5_weight_dtype: str = "default"
    t5_device: str = "default"


@dataclass
class Result:
    """The images (``b 3 h w`` in [-1, 1]) of every stage, first to last, and the memory report."""

    images: list[Tensor] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)


def run_cascade(job: Job, stages: list[Stage], upscaler: LatentUpscaler | None = None) -> Result:
    """Run a cascade: everything is checked first, then T5 and each stage are loaded, used and freed in turn.

    T5 is not loaded when its states of all texts are kept from earlier runs. FileNotFoundError or ValueError, before
    anything is loaded, for a file or setting that does not fit its place.
    """
    t5, width = checked_t5(job.t5)
    paths = [
        checked_stage(stage, number, width, LEARNED_RANGE) for number, stage in enumerate(stages, start=1)
    ]
    if upscaler is not None:
        checked_upscaler(upscaler.file)
    result = Result()
    prompts = [_prompts(job, stage) for stage in stages]
    texts = _encoded(job, t5, list(dict.fromkeys(text for pair in prompts for text in pair)), result.ledger)
    for number, (stage, path, pair) in enumerate(zip(stages, paths, prompts, strict=True), start=1):
        below = result.images[-1] if result.images else None
        image = alone(
            result.ledger,
            f"stage {'I' * number}",
            lambda stage=stage, path=path: prepared_stage(
                path, stage.weight_dtype, stage.schedule, stage.threshold
            ),
            lambda model, stage=stage, pair=pair, below=below: stage.sample(
                model, texts[pair[0]], texts[pair[1]], job, below
            ),
        )
        result.images.append(image)
    if upscaler is not None:
        result.images.append(_upscaled(upscaler, job, result))
    return result


def _encoded(job: Job, path: str, texts: list[str], ledger: Ledger) -> dict[str, Any]:
    """CONDITIONING of each text, from earlier runs or from T5, which is loaded only for the others."""
    settings = (job.t5_weight_dtype, job.t5_device, job.clean_caption)
    found = TEXTS.find(path, settings, texts)
    wanted = [text for text in texts if text not in found]
    if not wanted:
        ledger.skip("T5", "not loaded, its states of these prompts are kept from an earlier run")
        return found
    encoded = alone(
        ledger,
        "T5",
        lambda: load_t5(path, job.t5_weight_dtype, job.t5_device),
        lambda clip: {text: encode(clip, text, job.clean_caption) for text in wanted},
    )
    TEXTS.keep(path, settings, encoded)
    return {**found, **encoded}


def with_low_res(conditioning: Any, low: LowRes) -> Any:
    """A copy of a CONDITIONING with the image that a super-resolution stage enlarges."""
    return [[text, {**options, LOW_RES: low}] for text, options in conditioning]


def low_res_of(images: Tensor, level: float, fresh_noise: bool = False, blur: float = 0.0) -> LowRes:
    """The image to enlarge, from ComfyUI's IMAGE (``b h w c`` in [0, 1])."""
    return LowRes(images[..., :3].movedim(-1, 1) * 2 - 1, level, fresh_noise, blur)


def as_images(pixels: Tensor) -> Tensor:
    """ComfyUI's IMAGE (``b h w c`` in [0, 1]) of pixels (``b c h w`` in [-1, 1])."""
    return (pixels.movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def empty_above(below: Tensor, scale: float) -> Tensor:
    """An empty latent ``scale`` times as large as the image below it, sides in multiples of 8."""
    height, width = (max(8, round(side * scale / 8) * 8) for side in below.shape[-2:])
    return torch.zeros(below.shape[0], 3, height, width)


def sampled(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    sampler: Any,
    sigmas: Tensor,
    latent: Tensor,
    seed: int,
) -> Tensor:
    """Sample with previews, progress and interruption as core's nodes have them; the latent, on the CPU."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    noise = comfy.sample.prepare_noise(latent, seed)
    callback = latent_preview.prepare_callback(model, len(sigmas) - 1)
    return guider.sample(
        noise,
        latent,
        sampler,
        sigmas,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    ).cpu()


def _prompts(job: Job, stage: Stage | LatentUpscaler) -> tuple[str, str]:
    return (
        job.prompt if stage.prompt is None else stage.prompt,
        job.negative if stage.negative is None else stage.negative,
    )


def _upscaled(upscaler: LatentUpscaler, job: Job, result: Result) -> Tensor:
    """The last image through core's x4 upscaler: text encoder, U-Net and VAE of one checkpoint."""
    below = result.images[-1]
    path = locate(CHECKPOINTS, upscaler.file)

    def load() -> Any:
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(path)
        if model is None or clip is None or vae is None:
            raise ValueError(
                f"{upscaler.file} is not a complete checkpoint: ComfyUI found no U-Net, text encoder or VAE in it. "
                "Choose x4-upscaler-ema.safetensors or a checkpoint trained from it."
            )
        return _Bundle(model, clip, vae)

    def use(bundle: "_Bundle") -> Tensor:
        extra = {"concat_image": below, "noise_augmentation": upscaler.noise}
        positive, negative = (
            [[text, {**options, **extra}] for text, options in encode(bundle.clip, prompt)]
            for prompt in _prompts(job, upscaler)
        )
        sampling = bundle.patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, upscaler.scheduler, upscaler.steps)
        latent = torch.zeros(below.shape[0], 4, *below.shape[-2:])
        sampler = comfy.samplers.sampler_object(upscaler.sampler)
        latent = sampled(bundle.patcher, positive, negative, upscaler.cfg, sampler, sigmas, latent, job.seed)
        return bundle.vae.decode(latent).movedim(-1, 1).cpu() * 2 - 1

    return alone(result.ledger, "x4 upscaler", load, use)


@dataclass
class _Bundle:
    """A checkpoint's three models; the memory report weighs the U-Net."""

    patcher: Any
    clip: Any
    vae: Any
