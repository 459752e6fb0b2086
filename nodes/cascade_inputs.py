"""Inputs that several IF nodes share, so that they are the same everywhere."""

from typing import Any

from comfy_api.latest import io

from ..cascade import host_files, host_t5
from ..cascade.host_load import WEIGHT_DTYPES
from ..cascade.host_threshold import Threshold
from ..cascade.schedule import NAMED_SPACINGS, SCHEDULES

CATEGORY = "blockwork/IF"
SAMPLING = "blockwork/sampling"
STAGE_DEFAULT = "stage default"


def stage_file_input():
    """The file of a stage."""
    return io.Combo.Input(
        "stage_file",
        options=host_files.choices(host_files.STAGES),
        tooltip="The stage's U-Net, from models/diffusion_models.",
    )


def t5_file_input():
    """The file of the text encoder."""
    return io.Combo.Input(
        "t5_file",
        options=host_files.choices(host_files.ENCODERS),
        tooltip="The T5 v1.1 encoder (XXL for the released stages), from models/text_encoders.",
    )


def t5_settings_inputs(prefix: str = ""):
    """Data type and device of T5."""
    return [
        io.Combo.Input(
            f"{prefix}weight_dtype",
            options=list(host_t5.DTYPES),
            default="default",
            optional=True,
            advanced=True,
            tooltip="Data type of T5's weights. Default: as in the file. fp8 halves the memory of an fp16 file.",
        ),
        io.Combo.Input(
            f"{prefix}device",
            options=list(host_t5.DEVICES),
            default="default",
            optional=True,
            advanced=True,
            tooltip="Where T5 runs. Default: ComfyUI's choice. cpu keeps it out of VRAM, and is slower.",
        ),
    ]


def cfg_input(default: float, tooltip: str = "Guidance scale (CFG).", **more: Any):
    """The guidance scale."""
    return io.Float.Input("cfg", default=default, min=0.0, max=100.0, step=0.1, tooltip=tooltip, **more)


def low_res_inputs(scale: str, aug_level: str, aug_noise: str, blur: str, optional: bool = False):
    """How a super-resolution stage enlarges the image of the stage below; the arguments are the tooltips."""
    return [
        io.Float.Input("scale", default=4.0, min=1.0, max=16.0, step=0.25, optional=optional, tooltip=scale),
        io.Float.Input(
            "aug_level", default=0.25, min=0.0, max=1.0, step=0.01, optional=optional, tooltip=aug_level
        ),
        io.Combo.Input(
            "aug_noise",
            options=["fixed", "fresh"],
            default="fixed",
            optional=True,
            advanced=True,
            tooltip=aug_noise,
        ),
        io.Float.Input(
            "blur", default=0.0, min=0.0, max=10.0, step=0.05, optional=True, advanced=True, tooltip=blur
        ),
    ]


def spacing_input(default: str, optional: bool = False):
    """The timestep list of a stage."""
    return io.String.Input(
        "spacing",
        default=default,
        optional=optional,
        tooltip=f"The timesteps to sample, of 1000: {', '.join(NAMED_SPACINGS)}; counts per equal section, lowest noise "
        "first ('10,10,3,2,2'); one count ('150'); or an even stride ('ddim50').",
    )


def weight_dtype_input():
    """The dtype of the weights in memory."""
    return io.Combo.Input(
        "weight_dtype",
        options=list(WEIGHT_DTYPES),
        default="default",
        optional=True,
        advanced=True,
        tooltip="Data type of the weights: ComfyUI's choice, or 8 bits, which halves their memory.",
    )


def schedule_input():
    """The noise schedule the stage was trained with."""
    return io.Combo.Input(
        "schedule",
        options=list(SCHEDULES),
        default="cosine",
        optional=True,
        advanced=True,
        tooltip="Noise schedule the stage was trained with: cosine for every released IF stage, linear for Imagen's 256 "
        "to 1024 stage.",
    )


def stage_threshold_inputs():
    """The threshold of a stage: its default, or another."""
    return [
        io.Combo.Input(
            "threshold",
            options=[STAGE_DEFAULT, "dynamic", "static", "none"],
            default=STAGE_DEFAULT,
            optional=True,
            tooltip="Keeps the predicted image in range at every step. Stage default: dynamic with percentile 0.95 and cap "
            "1.5 in stage I, static in stages II and III. With none, samplers diverge on this noise schedule.",
        ),
        percentile_input(0.95, advanced=True),
        cap_input(1.5, advanced=True),
    ]


def percentile_input(default: float, advanced: bool = False):
    """The fraction of values that dynamic thresholding keeps in range."""
    return io.Float.Input(
        "percentile",
        default=default,
        min=0.0,
        max=1.0,
        step=0.001,
        round=0.0001,
        optional=True,
        advanced=advanced,
        tooltip="Dynamic: the fraction of values kept in range. The others are clipped, then all are divided by the "
        "bound. Imagen: 0.995, IF: 0.95 (diffusers' dynamic_thresholding_ratio).",
    )


def cap_input(default: float, advanced: bool = False):
    """The largest divisor of dynamic thresholding."""
    return io.Float.Input(
        "cap",
        default=default,
        min=0.0,
        max=100.0,
        step=0.1,
        optional=True,
        advanced=advanced,
        tooltip="Dynamic: the largest divisor (diffusers' sample_max_value). IF's stage I: 1.5. 1 is static clipping; 0 "
        "is no cap (Imagen).",
    )


def stage_threshold(mode: str, percentile: float, cap: float) -> Threshold | None:
    """The threshold those inputs describe; None means the stage's default."""
    if mode == STAGE_DEFAULT:
        return None
    return Threshold(mode=mode, percentile=percentile, cap=cap or None, bound="pixels")
