"""Finds model files where ComfyUI keeps them, and says where a missing one is licensed and belongs."""

from typing import cast

import comfy.utils
import folder_paths
from torch import Tensor

ENCODERS, STAGES, CHECKPOINTS, LORAS = "text_encoders", "diffusion_models", "checkpoints", "loras"

# What is missing, who licenses it, and which of the publisher's files it is.
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
    LORAS: ("a LoRA for an IF stage", "whoever trained it", "the safetensors file"),
}


def tensors_of(path: str) -> dict[str, Tensor]:
    """The tensors of a model file; pickles are read as weights only."""
    return cast(dict[str, Tensor], comfy.utils.load_torch_file(path, safe_load=True))


def choices(folder: str) -> list[str]:
    """File names of a model folder for a combo, never an empty list."""
    return folder_paths.get_filename_list(folder) or [""]


def locate(folder: str, name: str) -> str:
    """Full path of a model file; FileNotFoundError saying what is missing, whence, and where it goes."""
    path = folder_paths.get_full_path(folder, name) if name else None
    if path is None:
        raise FileNotFoundError(missing(folder, name))
    return path


def missing(folder: str, name: str) -> str:
    """The message for a file that is not there."""
    what, source, which = SOURCES[folder]
    given = (
        f"{name!r} was asked for, but is not" if name else f"no {what.split(' ', 1)[1]} is chosen, or none is"
    )
    return (
        f"{given} in ComfyUI's models/{folder} folder. Needed is {what}. Blockwork ships and downloads no weights: "
        f"get it from {source}; take {which}, and put it in {folder_paths.get_folder_paths(folder)[0]}."
    )


def check(folder: str, name: str | None) -> bool | str:
    """A node's ``validate_inputs`` answer for a file name; a linked input (None) is checked when it runs."""
    if name is None or (name and folder_paths.get_full_path(folder, name) is not None):
        return True
    return missing(folder, name)
