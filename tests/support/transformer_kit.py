"""Tiny transformers of ComfyUI's own classes on the CPU, with random weights."""

from collections.abc import Callable
from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.audio.embedders
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from torch import Tensor

CPU = torch.device("cpu")
WIDTH = 48  # of a prompt's token
COSMOS = {
    "max_img_h": 64, "max_img_w": 64, "max_frames": 8, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 64, "num_blocks": 3, "num_heads": 4, "mlp_ratio": 2.0,
    "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "use_adaln_lora": True, "adaln_lora_dim": 16, "min_fps": 1, "max_fps": 30,
    "rope_h_extrapolation_ratio": 1.0, "rope_w_extrapolation_ratio": 1.0, "rope_t_extrapolation_ratio": 1.0,
    "extra_per_block_abs_pos_emb": False, "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
WAN = {
    "model_type": "t2v", "in_dim": 16, "out_dim": 16, "dim": 48, "ffn_dim": 96, "freq_dim": 32, "text_dim": WIDTH,
    "num_heads": 2, "num_layers": 3,
}  # fmt: skip
KANDINSKY = {
    "in_visual_dim": 16, "out_visual_dim": 16, "in_text_dim": WIDTH, "in_text_dim2": 1280, "time_dim": 32,
    "model_dim": 64, "ff_dim": 128, "visual_embed_dim": 64, "num_text_blocks": 2, "num_visual_blocks": 3,
    "axes_dims": (8, 12, 12), "rope_scale_factor": (1.0, 1.0, 1.0),
}  # fmt: skip
AUDIO = {
    "io_channels": 64, "embed_dim": 768, "cond_token_dim": 768, "global_cond_dim": 1536, "depth": 3, "num_heads": 4,
    "project_cond_tokens": False,
}  # fmt: skip


def anima(**changes: Any) -> Any:
    config = comfy.supported_models.Anima({**COSMOS, "image_model": "anima", **changes})
    model = _model(config, comfy.model_base.Anima)
    adapter = comfy.ldm.anima.model.LLMAdapter(  # the real one has 200 million weights
        WIDTH, WIDTH, 32, num_layers=2, num_heads=2, device=CPU, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    model.diffusion_model.llm_adapter = adapter
    return _patcher(model)


def cosmos(**changes: Any) -> Any:
    config = comfy.supported_models.CosmosT2IPredict2({**COSMOS, "image_model": "cosmos_predict2", **changes})
    return _patcher(_model(config, comfy.model_base.CosmosPredict2))


def wan(**changes: Any) -> Any:
    return _patcher(
        _model(
            comfy.supported_models.WAN21_T2V({**WAN, "image_model": "wan2.1", **changes}),
            comfy.model_base.WAN21,
        )
    )


def kandinsky(**changes: Any) -> Any:
    config = comfy.supported_models.Kandinsky5Image({**KANDINSKY, "image_model": "kandinsky5", **changes})
    return _patcher(_model(config, comfy.model_base.Kandinsky5Image))


def stable_audio(**changes: Any) -> Any:
    config = comfy.supported_models.StableAudio({**AUDIO, "audio_model": "dit1.0", **changes})
    config.set_inference_dtype(torch.float32, None)
    numbers = comfy.ldm.audio.embedders.NumberConditioner(768, 0, 512).state_dict()
    return _patcher(comfy.model_base.StableAudio1(config, numbers, numbers, device=CPU))


MODELS: dict[str, Callable[..., Any]] = {
    "anima": anima,
    "cosmos": cosmos,
    "wan": wan,
    "kandinsky": kandinsky,
    "stable_audio": stable_audio,
}
LATENTS = {
    "anima": (16, 1, 4, 4),
    "cosmos": (16, 1, 4, 4),
    "wan": (16, 2, 4, 4),
    "kandinsky": (16, 4, 4),
    "stable_audio": (64, 8),
}


def prompt(kind: str, seed: int, tokens: int = 12, batch: int = 1) -> list[list[Any]]:
    """A CONDITIONING as the kind's text encoder would make it, of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    width = 768 if kind == "stable_audio" else WIDTH
    options: dict[str, Any] = {"pooled_output": torch.randn(1, 1280, generator=generator)}
    if kind == "anima":
        options["t5xxl_ids"] = torch.randint(0, 32128, (tokens,), generator=generator)
        options["t5xxl_weights"] = torch.ones(tokens)
    return [[torch.randn(batch, tokens, width, generator=generator), options]]


def noise(kind: str, batch: int = 1) -> Tensor:
    """Noise in the kind's latent shape."""
    return torch.randn(batch, *LATENTS[kind], generator=torch.Generator().manual_seed(7))


def _model(config: Any, base: Any) -> Any:
    config.set_inference_dtype(torch.float32, None)
    return base(config, device=CPU)


def _patcher(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                values /= weight[0].numel() ** 0.5
            elif name.endswith("weight") or name.endswith("gamma"):
                values = 1 + 0.1 * values
            else:
                values *= 0.1
            weight.copy_(values)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)
