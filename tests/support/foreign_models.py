"""Key sets of other model families: core's own networks with a layer or two, on the meta device."""

from collections.abc import Callable
from typing import Any

import comfy.ops
import torch
from comfy.ldm.ace.model import ACEStepTransformer2DModel
from comfy.ldm.audio.dit import AudioDiffusionTransformer
from comfy.ldm.aura.mmdit import MMDiT as AuraFlow
from comfy.ldm.cascade.stage_b import StageB
from comfy.ldm.cascade.stage_c import StageC
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.model import Flux
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from comfy.ldm.hunyuan3d.model import Hunyuan3Dv2
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.hydit.models import HunYuanDiT
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.omnigen.omnigen2 import OmniGen2Transformer2DModel
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import WanModel

SD = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "num_heads": 8,
    "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
SD2 = SD | {"context_dim": 1024, "use_linear_in_transformer": True, "num_head_channels": 64, "num_heads": -1}
XL = SD2 | {
    "context_dim": 2048, "channel_mult": (1, 2, 4), "num_res_blocks": [2, 2, 2], "num_classes": "sequential",
    "adm_in_channels": 2816, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}  # fmt: skip
DISTILLED = XL | {"transformer_depth_middle": -1}
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [],
}  # fmt: skip
CHROMA = FLUX | {
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5,
}  # fmt: skip
HUNYUAN_VIDEO = {key: value for key, value in FLUX.items() if key != "txt_ids_dims"} | {
    "patch_size": [1, 2, 2], "theta": 256, "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False, "guidance_embed": True,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "depth": 2, "pos_embed_max_size": 192, "adm_in_channels": 2048, "input_size": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
}  # fmt: skip
LUMINA = {
    "in_channels": 16,
    "dim": 2304,
    "n_layers": 1,
    "n_heads": 24,
    "n_kv_heads": 8,
    "cap_feat_dim": 2304,
    "axes_dims": [32, 32, 32],
    "qk_norm": True,
}

MOCHI = {
    "depth": 1, "use_t5": True, "qk_norm": True, "hidden_size_x": 3072, "hidden_size_y": 1536, "num_heads": 24,
    "in_channels": 12, "mlp_ratio_x": 4.0,
}  # fmt: skip

# The family that core finds -> network and arguments.
NETWORKS: dict[str, tuple[Callable[..., torch.nn.Module], dict[str, Any]]] = {
    "SD15": (UNetModel, SD),
    "SD15_instructpix2pix": (UNetModel, SD | {"in_channels": 8}),
    "SD20": (UNetModel, SD2),
    "SD21UnclipL": (UNetModel, SD2 | {"num_classes": "sequential", "adm_in_channels": 1536}),
    "SD21UnclipH": (UNetModel, SD2 | {"num_classes": "sequential", "adm_in_channels": 2048}),
    "SDXL": (UNetModel, XL),
    "SDXL_instructpix2pix": (UNetModel, XL | {"in_channels": 8}),
    "SDXLRefiner": (
        UNetModel,
        SD2 | {
            "model_channels": 384, "context_dim": 1280, "num_classes": "sequential", "adm_in_channels": 2560,
            "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0], "transformer_depth_middle": 4,
            "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        },
    ),
    "SSD1B": (
        UNetModel,
        DISTILLED | {
            "transformer_depth": [0, 0, 2, 2, 4, 4], "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
        },
    ),
    "Segmind_Vega": (
        UNetModel,
        DISTILLED | {
            "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        },
    ),
    "Stable_Cascade_C": (StageC, {}),
    "Stable_Cascade_B": (StageB, {}),
    "SD3": (MMDiT, SD3),
    "StableAudio": (AudioDiffusionTransformer, {"depth": 1}),
    "AuraFlow": (AuraFlow, {"n_layers": 2, "n_double_layers": 1}),
    "PixArtAlpha": (PixArtMS, {"depth": 1}),
    "HunyuanDiT": (HunYuanDiT, {"depth": 4, "log_fn": str}),
    "Flux": (Flux, FLUX | {"guidance_embed": True}),
    "FluxSchnell": (Flux, FLUX | {"guidance_embed": False}),
    "Chroma": (Chroma, CHROMA),
    "GenmoMochi": (AsymmDiTJoint, MOCHI),
    "LTXV": (LTXVModel, {"num_layers": 1}),
    "HunyuanVideo": (HunyuanVideo, HUNYUAN_VIDEO),
    "WAN21_T2V": (WanModel, {"num_layers": 1}),
    "WAN21_I2V": (WanModel, {"num_layers": 1, "model_type": "i2v", "in_dim": 36}),
    "Hunyuan3Dv2": (Hunyuan3Dv2, {"depth": 1, "depth_single_blocks": 1}),
    "Lumina2": (NextDiT, LUMINA),
    "ACEStep": (ACEStepTransformer2DModel, {"num_layers": 1}),
    "Omnigen2": (OmniGen2Transformer2DModel, {"num_layers": 1}),
    "QwenImage": (QwenImageTransformer2DModel, {"num_layers": 1}),
}  # fmt: skip


def state_dict(family: str) -> dict[str, torch.Tensor]:
    """The keys of a family's network, with shapes and no values."""
    network, arguments = NETWORKS[family]
    operations = {} if network is UNetModel else {"operations": comfy.ops.disable_weight_init}
    return network(**arguments, **operations, dtype=torch.float32, device="meta").state_dict()
