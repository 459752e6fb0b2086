"""Finds model files in ComfyUI's folders, reads them, and says where to get a missing one."""

from pathlib import Path
from typing import Any, cast

import comfy.ops
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from . import files

ENCODERS, STAGES, CHECKPOINTS, LORAS = "text_encoders", "diffusion_models", "checkpoints", "loras"

QUANTISED = ".comfy_quant"
QUANTISED_PARTS = (
    "weight",
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "pre_quant_scale",
    "comfy_quant",
)

# Name, publisher with licence, and which of the publisher's files to use.
SOURCES = {
    ENCODERS: (
        "a T5 v1.1 XXL encoder",
        "google/t5-v1_1-xxl on huggingface.co (Apache 2.0)",
        "its encoder in one safetensors file, often named t5xxl_fp16.safetensors",
    ),
    STAGES: (
        "an IF stage",
        "the DeepFloyd organisation on huggingface.co: IF-I-M, IF-I-L, IF-I-XL-v1.0, IF-II-M, IF-II-L (accept the "
        "DeepFloyd IF licence there first)",
        "the U-Net file, original or diffusers format, under a name of your choice",
    ),
    CHECKPOINTS: (
        "the x4 upscaler checkpoint",
        "stabilityai/stable-diffusion-x4-upscaler on huggingface.co (CreativeML Open RAIL++-M)",
        "x4-upscaler-ema.safetensors",
    ),
    LORAS: ("a LoRA for an IF stage", "its author", "the safetensors file"),
}


def tensors_of(path: str) -> dict[str, Tensor]:
    """The tensors of a model file; pickles are read as weights only, old scaled fp8 in core's present form.

    FileError naming the file when it is an LFS pointer, truncated, or not readable.
    """
    files.check(path)
    try:
        state_dict, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except Exception as error:
        raise files.FileError(
            f"{Path(path).name} cannot be read: {error}. Download it again, or use a safetensors file."
        ) from error
    return cast(dict[str, Tensor], comfy.utils.convert_old_quants(state_dict, "", metadata)[0])


def dequantised(state_dict: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors with core's quantised layers (fp8, int8, fp4, ...) multiplied out into ``dtype``."""
    out = dict(state_dict)
    ops = comfy.ops.mixed_precision_ops({}, dtype, full_precision_mm=True)
    for layer in [key.removesuffix(QUANTISED) for key in state_dict if key.endswith(QUANTISED)]:
        parts = {key: out.pop(f"{layer}.{key}") for key in QUANTISED_PARTS if f"{layer}.{key}" in out}
        linear: Any = ops.Linear(1, 1, bias=False, dtype=dtype, device="cpu")
        linear._orig_shape = tuple(parts["weight"].shape)
        linear.load_state_dict(parts, strict=False)
        out[f"{layer}.weight"] = linear.convert_weight(linear.weight).detach().to(dtype)
    return out


def choices(folder: str) -> list[str]:
    """File names of a model folder for a combo, never an empty list."""
    return folder_paths.get_filename_list(folder) or [""]


def locate(folder: str, name: str) -> str:
    """Full path of a model file; FileNotFoundError with what is missing, where to get it, and its folder."""
    path = folder_paths.get_full_path(folder, name) if name else None
    if path is None:
        raise FileNotFoundError(missing(folder, name))
    return path


def missing(folder: str, name: str) -> str:
    """The message for a file that is not found."""
    what, source, which = SOURCES[folder]
    given = f"{name!r} is not" if name else f"No {what.split(' ', 1)[1]} is chosen, or none is"
    return (
        f"{given} in ComfyUI's models/{folder} folder. This input needs {what}. Blockwork contains and downloads no "
        f"weights: get it from {source}; use {which}, and put it in {folder_paths.get_folder_paths(folder)[0]}."
    )


def check(folder: str, name: str | None) -> bool | str:
    """A node's ``validate_inputs`` answer for a file name; a linked input (None) is checked when it runs."""
    if name is None or (name and folder_paths.get_full_path(folder, name) is not None):
        return True
    return missing(folder, name)
