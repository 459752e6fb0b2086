"""Core's own diffusion models with a few layers each: a class and its arguments, by a readable name.

``keys(name)`` gives the state-dict keys with shapes, built on the meta device.
"""

import importlib
import itertools
from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.ops
import torch

SD = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "num_heads": 8,
    "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
XL = SD | {
    "channel_mult": (1, 2, 4), "num_res_blocks": [2, 2, 2], "num_classes": "sequential",
    "adm_in_channels": 2816, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}  # fmt: skip
REFINER = SD | {
    "num_classes": "sequential", "adm_in_channels": 2560, "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
    "transformer_depth_middle": 4, "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
}  # fmt: skip
KOALA = XL | {
    "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5], "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -2,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "depth": 24, "pos_embed_max_size": 192, "adm_in_channels": 2048, "input_size": None,
    "qk_norm": "rms",
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [], "guidance_embed": True,
}  # fmt: skip
FLUX2 = FLUX | {
    "vec_in_dim": None, "axes_dim": [32, 32, 32, 32], "mlp_ratio": 3.0, "theta": 2000, "out_channels": 128,
    "in_channels": 128, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False,
    "txt_ids_dims": [3], "patch_size": 1, "guidance_embed": False, "depth": 5, "depth_single_blocks": 20,
}  # fmt: skip
CHROMA = {key: value for key, value in FLUX.items() if key != "guidance_embed"} | {
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5,
}  # fmt: skip
RADIANCE = CHROMA | {
    "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 64, "nerf_mlp_ratio": 4,
    "nerf_depth": 4, "nerf_max_freqs": 8, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": True, "use_sequential_txt_ids": False,
}  # fmt: skip
VIDEO = {key: value for key, value in FLUX.items() if key != "txt_ids_dims"} | {
    "patch_size": [1, 2, 2], "theta": 256, "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False, "depth": 20, "depth_single_blocks": 40,
}  # fmt: skip
VIDEO15 = VIDEO | {
    "vec_in_dim": None, "byt5": True, "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True,
    "guidance_embed": False, "depth": 54, "depth_single_blocks": 0,
}  # fmt: skip
LUMINA = {
    "in_channels": 16, "dim": 2304, "n_layers": 26, "n_heads": 24, "n_kv_heads": 8, "cap_feat_dim": 2304,
    "axes_dims": [32, 32, 32], "qk_norm": True,
}  # fmt: skip
ZIMAGE = LUMINA | {
    "dim": 3840, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48], "cap_feat_dim": 2560,
    "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "pad_tokens_multiple": 32,
}  # fmt: skip
COSMOS = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "concat_padding_mask": True, "pos_emb_cls": "rope3d", "pos_emb_interpolation": "crop",
    "use_adaln_lora": True, "adaln_lora_dim": 256, "model_channels": 2048, "num_blocks": 28, "num_heads": 16,
}  # fmt: skip
COSMOS1 = COSMOS | {
    "block_config": "FA-CA-MLP", "block_x_format": "THWBD", "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
MOCHI = {
    "depth": 48, "use_t5": True, "qk_norm": True, "hidden_size_x": 3072, "hidden_size_y": 1536, "num_heads": 24,
    "in_channels": 12, "mlp_ratio_x": 4.0,
}  # fmt: skip
HIDREAM = {
    "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32], "caption_channels": [4096, 4096],
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "num_attention_heads": 20, "llama_layers": list(range(48)),
}  # fmt: skip
WAN = {"dim": 1536, "ffn_dim": 8960, "num_layers": 30, "num_heads": 12}
SEEDVR = {
    "vid_dim": 2560, "heads": 20, "num_layers": 32, "norm_eps": 1e-5, "mlp_type": "swiglu", "vid_out_norm": True,
}  # fmt: skip
ACE15 = {
    "hidden_size": 32, "text_hidden_dim": 32, "timbre_hidden_dim": 32, "audio_acoustic_hidden_dim": 32, "num_heads": 2,
    "num_kv_heads": 1, "head_dim": 16, "intermediate_size": 32, "fsq_dim": 32, "encoder_hidden_size": 32,
    "encoder_intermediate_size": 32, "encoder_num_heads": 2, "in_channels": 96,
}  # fmt: skip

BUILT_ON_CPU = ("ACE-Step 1.5",)  # its quantiser reads a value while it is built
IN_LEVELS = ("SD1", "SDXL", "SDXL refiner", "KOALA 700M", "Stable Cascade C", "Stable Cascade B")
_UNET = "modules.diffusionmodules.openaimodel.UNetModel"

# name -> (class below comfy.ldm, arguments)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "SD1": (_UNET, SD),
    "SDXL": (_UNET, XL),
    "SDXL refiner": (_UNET, REFINER),
    "KOALA 700M": (_UNET, KOALA),
    "Stable Cascade C": ("cascade.stage_c.StageC", {}),
    "Stable Cascade B": ("cascade.stage_b.StageB", {}),
    "SD3": ("modules.diffusionmodules.mmdit.MMDiT", SD3),
    "SD3.5 Medium": ("modules.diffusionmodules.mmdit.MMDiT", SD3 | {"x_block_self_attn_layers": list(range(13))}),
    "Stable Audio": ("audio.dit.AudioDiffusionTransformer", {"depth": 24}),
    "AuraFlow": ("aura.mmdit.MMDiT", {}),
    "PixArt": ("pixart.pixartms.PixArtMS", {}),
    "HunyuanDiT": ("hydit.models.HunYuanDiT", {"depth": 40, "log_fn": str}),
    "Flux.1 dev": ("flux.model.Flux", FLUX),
    "Flux.2 klein 4B": ("flux.model.Flux", FLUX2),
    "Chroma": ("chroma.model.Chroma", CHROMA),
    "Chroma Radiance": ("chroma_radiance.model.ChromaRadiance", RADIANCE),
    "Mochi": ("genmo.joint_model.asymm_models_joint.AsymmDiTJoint", MOCHI),
    "LTXV": ("lightricks.model.LTXVModel", {}),
    "LTX-2": ("lightricks.av_model.LTXAVModel", {}),
    "HunyuanVideo": ("hunyuan_video.model.HunyuanVideo", VIDEO),
    "HunyuanVideo 1.5": ("hunyuan_video.model.HunyuanVideo", VIDEO15),
    "HunyuanImage 2.1": ("hunyuan_video.model.HunyuanVideo", VIDEO | {"vec_in_dim": None, "byt5": True}),
    "Hunyuan3D 2": ("hunyuan3d.model.Hunyuan3Dv2", {}),
    "Hunyuan3D 2.1": ("hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain", {}),
    "Cosmos 1": ("cosmos.model.GeneralDIT", COSMOS1),
    "Cosmos Predict2": ("cosmos.predict2.MiniTrainDIT", COSMOS),
    "Anima": ("anima.model.Anima", COSMOS),
    "Lumina 2": ("lumina.model.NextDiT", LUMINA),
    "Z-Image": ("lumina.model.NextDiT", ZIMAGE),
    "Z-Image pixel": ("lumina.model.NextDiTPixelSpace", ZIMAGE | {"in_channels": 3, "decoder_in_channels": 12}),
    "PixelDiT": ("pixeldit.model.PixDiT_T2I", {}),
    "PiD": ("pixeldit.pid.PidNet", {}),
    "Wan 2.1": ("wan.model.WanModel", WAN),
    "Wan 2.1 I2V": ("wan.model.WanModel", WAN | {"model_type": "i2v", "in_dim": 36}),
    "Wan causal": ("wan.ar_model.CausalWanModel", WAN),
    "Wan VACE": ("wan.model.VaceWanModel", WAN | {"vace_layers": 15, "vace_in_dim": 96}),
    "Wan camera": ("wan.model.CameraWanModel", WAN),
    "Wan HuMo": ("wan.model.HumoWanModel", WAN),
    "Wan SCAIL": ("wan.model.SCAILWanModel", WAN),
    "Wan SCAIL 2": ("wan.model.SCAIL2WanModel", WAN),
    "Wan S2V": ("wan.model.WanModel_S2V", WAN | {"num_layers": 40}),
    "Wan Animate": ("wan.model_animate.AnimateWanModel", WAN),
    "WanDancer": ("wan.model_wandancer.WanDancerModel", WAN),
    "HiDream I1": ("hidream.model.HiDreamImageTransformer2DModel", HIDREAM),
    "HiDream O1": ("hidream_o1.model.HiDreamO1Transformer", {}),
    "OmniGen2": ("omnigen.omnigen2.OmniGen2Transformer2DModel", {"num_layers": 32}),
    "Boogu": ("boogu.model.BooguTransformer2DModel", {}),
    "Qwen-Image": ("qwen_image.model.QwenImageTransformer2DModel", {}),
    "Mage-Flow": ("mage_flow.model.MageFlowTransformer2DModel", {"num_layers": 24}),
    "JoyImage": ("joyimage.model.JoyImageTransformer3DModel", {}),
    "Ideogram 4": ("ideogram4.model.Ideogram4Transformer2DModel", {}),
    "Krea 2": ("krea2.model.SingleStreamDiT", {}),
    "Kandinsky 5": ("kandinsky5.model.Kandinsky5", {}),
    "Lens": ("lens.model.LensTransformer2DModel", {}),
    "Ernie-Image": ("ernie.model.ErnieImageModel", {}),
    "CogVideoX": ("cogvideo.model.CogVideoXTransformer3DModel", {}),
    "MiniMax H3": ("minimax.model.MiniMaxH3Model", {}),
    "SeedVR2": ("seedvr.model.NaDiT", SEEDVR),
    "TripoSplat": ("triposplat.model.LatentSeqMMFlowModel", {}),
    "ACE-Step 1.5": ("ace.ace_step15.AceStepConditionGenerationModel", ACE15),
    "ACE-Step": ("ace.model.ACEStepTransformer2DModel", {}),
}  # fmt: skip


def build(
    name: str, device: str = "meta", dtype: torch.dtype = torch.float32, **changes: Any
) -> torch.nn.Module:
    """The network, with ``changes`` to its arguments; no values on the meta device."""
    path, arguments = NETWORKS[name]
    module, _, kind = f"comfy.ldm.{path}".rpartition(".")
    network = getattr(importlib.import_module(module), kind)
    operations = {} if path == _UNET else {"operations": comfy.ops.disable_weight_init}
    return network(**arguments | changes, **operations, dtype=dtype, device=device)


@cache
def keys(name: str) -> dict[str, torch.Tensor]:
    """State-dict key -> tensor without values, as ComfyUI names them (``diffusion_model.`` first)."""
    device = "cpu" if name in BUILT_ON_CPU else "meta"
    return {f"diffusion_model.{key}": tensor for key, tensor in build(name, device).state_dict().items()}


class Holder(torch.nn.Module):
    """What ComfyUI's models are around a network, as far as merging looks: the attribute ``diffusion_model``."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.diffusion_model = network


def shrunk(
    name: str, seed: int, *dtypes: torch.dtype, layers: int = 0, **changes: Any
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL with the keys of the full network, whose tensors are cut to at most 2 per axis, with seeded values.

    The tensors have the ``dtypes`` in turn; float32 where none is given. With ``layers`` each list of layers is cut to
    as many, in networks that are not U-Nets.
    """
    turns = itertools.cycle(dtypes or (torch.float32,))
    network = build(name, "cpu" if name in BUILT_ON_CPU else "meta", **changes)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for child in module.children():
            if layers and name not in IN_LEVELS and isinstance(child, torch.nn.ModuleList):
                del child[layers:]
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None and tensor.is_floating_point():
                    small = torch.randn([min(2, size) for size in tensor.shape], generator=generator)
                    small = small.to(next(turns))
                    stays = table is module._buffers
                    table[key] = small if stays else torch.nn.Parameter(small, requires_grad=False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(Holder(network), load_device=cpu, offload_device=cpu)
