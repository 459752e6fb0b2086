"""The whole cascade by file names: T5, then each stage, one after the other and never two at once."""

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

from .host_files import CHECKPOINTS, ENCODERS, STAGES, locate
from .host_load import prepared_stage
from .host_memory import Ledger, alone
from .host_model import LOW_RES, LowRes
from .host_sampler import LearnedRangeSampler, stage_sigmas
from .host_text import encode, load_t5
from .host_threshold import Threshold

LEARNED_RANGE = "learned_range"
SAMPLERS = (LEARNED_RANGE, *comfy.samplers.SAMPLER_NAMES)
SCHEDULERS = tuple(comfy.samplers.SCHEDULER_NAMES)


@dataclass(frozen=True)
class Stage:
    """One pixel stage of a cascade: its file and how to sample it; None for a prompt takes the cascade's."""

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

    def sample(self, model: Any, positive: Any, negative: Any, job: "Job", below: Tensor | None) -> Tensor:
        """The stage's picture (``b 3 h w`` in [-1, 1]), on top of the one from below if there is one."""
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
    """What a cascade draws: prompts, the size of stage I in pixels, how many, and from which seed."""

    t5: str
    prompt: str
    negative: str = ""
    width: int = 64
    height: int = 64
    batch: int = 1
    seed: int = 0
    clean_caption: bool = False


@dataclass
class Result:
    """The pictures (``b 3 h w`` in [-1, 1]) of every stage, first to last, and the memory books."""

    pictures: list[Tensor] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)


def run_cascade(job: Job, stages: list[Stage], upscaler: LatentUpscaler | None = None) -> Result:
    """Draw a cascade: every file is found first, then T5 and each stage are loaded, used and freed in turn.

    FileNotFoundError before anything is loaded when a file is missing.
    """
    t5 = locate(ENCODERS, job.t5)
    paths = [locate(STAGES, stage.file) for stage in stages]
    if upscaler is not None:
        locate(CHECKPOINTS, upscaler.file)
    result = Result()
    prompts = [_prompts(job, stage) for stage in stages]
    texts = alone(
        result.ledger,
        "T5",
        lambda: load_t5(t5),
        lambda clip: {
            text: encode(clip, text, job.clean_caption)
            for text in dict.fromkeys(text for pair in prompts for text in pair)
        },
    )
    for number, (stage, path, pair) in enumerate(zip(stages, paths, prompts, strict=True), start=1):
        below = result.pictures[-1] if result.pictures else None
        picture = alone(
            result.ledger,
            f"stage {'I' * number}",
            lambda stage=stage, path=path: prepared_stage(
                path, stage.weight_dtype, stage.schedule, stage.threshold
            ),
            lambda model, stage=stage, pair=pair, below=below: stage.sample(
                model, texts[pair[0]], texts[pair[1]], job, below
            ),
        )
        result.pictures.append(picture)
    if upscaler is not None:
        result.pictures.append(_upscaled(upscaler, job, result))
    return result


def with_low_res(conditioning: Any, low: LowRes) -> Any:
    """A copy of a CONDITIONING that shows a super-resolution stage the picture to enlarge."""
    return [[text, {**options, LOW_RES: low}] for text, options in conditioning]


def low_res_of(images: Tensor, level: float, fresh_noise: bool = False, blur: float = 0.0) -> LowRes:
    """The picture to enlarge, from ComfyUI's IMAGE (``b h w c`` in [0, 1])."""
    return LowRes(images[..., :3].movedim(-1, 1) * 2 - 1, level, fresh_noise, blur)


def as_images(pictures: Tensor) -> Tensor:
    """ComfyUI's IMAGE (``b h w c`` in [0, 1]) of pictures (``b c h w`` in [-1, 1])."""
    return (pictures.movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def empty_above(below: Tensor, scale: float) -> Tensor:
    """An empty latent ``scale`` times as large as the picture below it, sides in multiples of 8."""
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
    """The last picture through core's x4 upscaler: text, U-Net and VAE of one checkpoint."""
    below = result.pictures[-1]
    path = locate(CHECKPOINTS, upscaler.file)

    def load() -> Any:
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(path)
        if model is None or clip is None or vae is None:
            raise ValueError(
                f"{upscaler.file} is not a whole checkpoint: the upscaler needs model, CLIP and VAE."
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
    """A checkpoint's three models; the U-Net is the one the books weigh."""

    patcher: Any
    clip: Any
    vae: Any
