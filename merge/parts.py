"""What a checkpoint key is part of, and in which dtype it is written."""

import torch

from .checkpoint import Entry

UNET, TEXT, VAE_PART, EMA, OTHER = "unet", "text", "vae", "ema", "other"
MARKERS = (
    "v_pred",
    "ztsnr",
    "edm_vpred.sigma_max",
    "edm_vpred.sigma_min",
    "edm_mean",
    "edm_std",
    "scaled_fp8",
)
QUANTISED = (".scale_weight", ".weight_scale", ".weight_scale_2", ".comfy_quant", "scaled_fp8")
POSITION_IDS = ".position_ids"

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_PREFIXES = {
    UNET: ("model.diffusion_model.", "diffusion_model."),
    TEXT: ("cond_stage_model.", "conditioner.", "clip_l.", "clip_g.", "clip_h.", "text_encoders."),
    VAE_PART: ("first_stage_model.", "vae."),
    EMA: ("model_ema.",),
}


def part_of(key: str) -> str:
    """``unet``, ``text``, ``vae``, ``ema`` or ``other`` (schedule buffers, markers)."""
    return next((part for part, prefixes in _PREFIXES.items() if key.startswith(prefixes)), OTHER)


def output_dtype(choice: str, part: str, entry: Entry) -> torch.dtype:
    """The dtype a tensor is written in.

    ``same`` keeps it. Integers and schedule buffers are never cast. fp8 is for the U-Net's matrices and
    kernels alone: norms, biases, text encoder and VAE do not survive three bits of mantissa.
    """
    if choice == "same" or part == OTHER or not entry.dtype.is_floating_point:
        return entry.dtype
    if choice.startswith("fp8") and (part != UNET or len(entry.shape) < 2):
        return entry.dtype
    return DTYPES[choice]


def ema_key(key: str) -> str:
    """Where LatentDiffusion keeps the moving average of a model key: dots dropped, under ``model_ema.``."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")
