"""Puts the reference ComfyUI on ``sys.path``, pinned to the CPU, and builds tiny models of its own classes."""

from refhost.pack import use_comfyui

use_comfyui()

import comfy.model_patcher
import comfy.supported_models
import pytest
import torch

COMMON = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "use_spatial_transformer": True,
    "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
SD15 = COMMON | {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": (1, 1, 1, 1), "context_dim": 768, "adm_in_channels": None,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_linear_in_transformer": False,
}  # fmt: skip
SDXL = COMMON | {
    "num_res_blocks": [2, 2, 2], "channel_mult": (1, 2, 2), "context_dim": 64, "adm_in_channels": 96,
    "num_classes": "sequential", "transformer_depth": [0, 0, 2, 2, 2, 2], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 2, 2, 2], "use_linear_in_transformer": True,
}  # fmt: skip


def build_model(
    family: str, seed: int, dtype: torch.dtype = torch.float32, **changes
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of core's own class with seeded random weights; ``changes`` go over the U-Net's config."""
    base = {"SD15": SD15, "SDXL": SDXL}[family]
    config = getattr(comfy.supported_models, family)(base | changes)
    config.unet_config["num_heads"] = 4 if family == "SD15" else -1
    config.unet_config["num_head_channels"] = -1 if family == "SD15" else 16
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.diffusion_model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                values /= parameter[0].numel() ** 0.5
            elif name.endswith("weight"):
                values = 1 + 0.1 * values
            parameter.copy_(values)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="session")
def build():
    """``build(family, seed, dtype, **unet_config)`` -> MODEL; see ``build_model``."""
    return build_model
