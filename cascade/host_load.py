"""Loads stage files into ComfyUI models, in either format, with their schedule and default threshold."""

from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from . import files, keys
from .host_files import QUANTISED, dequantised, tensors_of
from .host_model import PixelStage
from .host_threshold import Threshold, with_threshold
from .lora import comfy_names
from .schedule import sigmas
from .unet import describe
from .unet_config import UNetConfig

# Tensors of quantised files that are no part of the network.
QUANTISED_MARKS = ("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale", QUANTISED)
NORM = {"original": "out.0.weight", "diffusers": "conv_norm_out.weight"}  # a tensor that is never quantised

WEIGHT_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}

# IF's own settings: stage I 0.95 and 1.5, the super-resolution stages a cap of 1, which is clipping.
STAGE_ONE_THRESHOLD = Threshold(mode="dynamic", percentile=0.95, cap=1.5, bound="pixels")
SUPER_RESOLUTION_THRESHOLD = Threshold(mode="static", bound="pixels")


def load_stage(path: str, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False) -> Any:
    """The MODEL in a stage file (safetensors or ``.bin``, original or diffusers keys), nothing attached.

    FileError or KeysError naming the file when it is not a complete IF stage. Quantised layers are dequantised.
    """
    options = model_options or {}
    state_dict = _stage_part(tensors_of(path))
    state_dict, _ = comfy.utils.convert_old_quants(
        state_dict, ""
    )  # a prefix hides the mark from the first try
    try:
        norm = NORM[keys.format_of(state_dict)]
        if any(key.endswith(QUANTISED) for key in state_dict):
            state_dict = dequantised(state_dict, state_dict[norm].dtype)
        return _load(state_dict, path, options, disable_dynamic)
    except keys.KeysError as error:
        raise keys.KeysError(f"{Path(path).name}: {error}") from error


def stage_config(path: str) -> UNetConfig:
    """The configuration of a stage file, from its header alone; KeysError naming the file when it is not one."""
    tensors = {
        key: tensor
        for key, tensor in _stage_part(files.meta_tensors(path)).items()
        if not key.endswith(QUANTISED_MARKS)
    }
    try:
        return describe(keys.to_diffusers(tensors))
    except keys.KeysError as error:
        raise keys.KeysError(f"{Path(path).name}: {error}") from error


def _stage_part(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the U-Net, without the prefix they have inside a checkpoint."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return comfy.utils.state_dict_prefix_replace(tensors, {prefix: ""}, filter_keys=True) or tensors


def _load(state_dict: dict, path: str, options: dict[str, Any], disable_dynamic: bool) -> Any:
    """What core's ``load_diffusion_model_state_dict`` does once it has recognised a model."""
    management = comfy.model_management
    config = PixelStage({})
    supported = list(config.supported_inference_dtypes)
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    dtype = options.get("dtype") or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state_dict),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )
    cast = management.unet_manual_cast(dtype, load_device, supported)
    config.set_inference_dtype(dtype, cast, device=load_device)
    config.optimizations["fp8"] = options.get("fp8_optimizations", False)
    model = config.get_model(state_dict, "")
    patcher_class = (
        comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    )
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    # Assigned, not copied: weights of the right dtype stay the file's own pages, one copy and no more.
    weights = {key: state_dict.pop(key).to(dtype) for key in list(state_dict)}
    model.load_model_weights(weights, "", assign=True)
    patcher.cached_patcher_init = (load_stage, (path, options))
    return patcher


def with_lora(model: Any, path: str, strength: float) -> Any:
    """A clone of a stage's MODEL with a LoRA: kohya, PEFT or old diffusers names.

    ValueError when no entry of the file fits the stage.
    """
    lora = comfy_names(tensors_of(path))
    modules = comfy.lora.model_lora_keys_unet(model.model, {})
    patched = model.clone()
    fitted = patched.add_patches(
        comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), modules), strength
    )
    if not fitted:
        raise ValueError(
            f"{Path(path).name} does not fit this stage: none of its {len(lora)} entries names one of the stage's "
            f"modules; the first is {next(iter(lora), 'none')}. Choose a LoRA that was trained on this stage."
        )
    return patched


def default_threshold(model: Any) -> Threshold:
    """The threshold the stage was released with."""
    return SUPER_RESOLUTION_THRESHOLD if model.model.config.super_resolution else STAGE_ONE_THRESHOLD


def prepared_stage(
    path: str,
    weight_dtype: str = "default",
    schedule: str = "cosine",
    threshold: Threshold | None = None,
) -> Any:
    """A stage's MODEL with its noise schedule and threshold (None: the stage's own) attached."""
    model = load_stage(path, WEIGHT_DTYPES[weight_dtype])
    if schedule != "cosine":
        sampling = type(model.model.model_sampling)(model.model.model_config)
        sampling.set_sigmas(sigmas(schedule))
        model.add_object_patch("model_sampling", sampling)
    return with_threshold(model, threshold or default_threshold(model), default=True)
