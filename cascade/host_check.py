"""Everything the IF node can refuse, checked on file headers before anything is loaded."""

from pathlib import Path
from typing import Any

import comfy.samplers

from . import files, t5
from .host_files import CHECKPOINTS, ENCODERS, STAGES, locate
from .host_load import stage_config
from .schedule import TIMESTEPS, respaced_timesteps
from .unet_config import UNetConfig

UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
UPSCALER_CHANNELS = 7  # four of the latent, three of the image to enlarge
UPSCALER_PARTS = {
    "the U-Net": "model.diffusion_model.",
    "the text encoder": ("cond_stage_model.", "conditioner."),
    "the VAE": "first_stage_model.",
}


def checked_t5(name: str) -> tuple[str, int]:
    """Path and width of a T5 file; FileNotFoundError, FileError or T5Error naming the file."""
    path = locate(ENCODERS, name)
    return path, t5.config(t5.untied(files.meta_tensors(path)), Path(path).name)["d_model"]


def checked_stage(stage: Any, number: int, text_width: int, learned_range: str) -> str:
    """Path of a stage's file, after its kind, text width, sampler and spacing are found to fit.

    ``number`` is 1 for stage I. FileNotFoundError, FileError, KeysError or ValueError naming file and stage.
    """
    label = f"Stage {'I' * number}"
    path = locate(STAGES, stage.file)
    config = stage_config(path)
    _check_kind(config, number, label, stage.file)
    if config.text_dim != text_width:
        raise ValueError(
            f"{label}, {stage.file}, reads text states {config.text_dim} wide, and the T5 file gives {text_width}. "
            "Choose the T5 encoder that the stage was trained with: t5-v1_1-xxl (4096) for the released stages."
        )
    if stage.sampler == learned_range and config.out_channels != 2 * config.image_channels:
        raise ValueError(
            f"{label}, {stage.file}, does not predict its variance, and the sampler is {learned_range}. Choose one "
            "of ComfyUI's samplers for this stage, for example ddpm."
        )
    if stage.sampler != learned_range and stage.sampler not in comfy.samplers.SAMPLER_NAMES:
        raise ValueError(
            f"{label}: The sampler {stage.sampler!r} is not available. Choose {learned_range} or one of ComfyUI's."
        )
    try:
        respaced_timesteps(stage.spacing, TIMESTEPS)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return path


def checked_upscaler(name: str) -> str:
    """Path of an x4 upscaler checkpoint; FileNotFoundError, FileError or ValueError naming the file."""
    path = locate(CHECKPOINTS, name)
    tensors = files.meta_tensors(path)
    absent = [
        part for part, prefix in UPSCALER_PARTS.items() if not any(key.startswith(prefix) for key in tensors)
    ]
    if absent:
        raise ValueError(
            f"{name} is not a complete checkpoint: {' and '.join(absent)} are missing. The upscaler needs U-Net, "
            "text encoder and VAE in one file, as in x4-upscaler-ema.safetensors."
        )
    channels = tensors[UNET_INPUT].shape[1] if UNET_INPUT in tensors else 0
    if channels != UPSCALER_CHANNELS:
        raise ValueError(
            f"{name} is not an x4 upscaler: its U-Net reads {channels} channels, and an upscaler's reads "
            f"{UPSCALER_CHANNELS}. Choose x4-upscaler-ema.safetensors or a checkpoint trained from it."
        )
    return path


def _check_kind(config: UNetConfig, number: int, label: str, name: str) -> None:
    if config.super_resolution == (number > 1):
        return
    if number == 1:
        raise ValueError(
            f"{name} is a super-resolution stage (II or III), and stage_1 needs a stage I, which makes an image "
            "from text. Choose an IF-I file for stage_1."
        )
    raise ValueError(
        f"{name} is a stage I, and stage_{number} needs a super-resolution stage, which enlarges an image. Choose "
        f"an IF-II or IF-III file for stage_{number}."
    )
