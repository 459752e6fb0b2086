"""Tiny transformers of ComfyUI's own classes on the CPU, with random weights."""

from collections.abc import Callable
from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.audio.embedders
import comfy.model_base
import comfy.model_patcher
import comfy.nested_tensor
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
AUDIO3 = {
    **AUDIO, "global_cond_dim": 768, "global_cond_type": "adaLN", "global_cond_shared_embed": True,
    "local_add_cond_dim": 65, "timestep_features_type": "expo",
}  # fmt: skip
LTXV = {
    "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2,
    "caption_channels": WIDTH, "num_layers": 3,
}  # fmt: skip
LTXAV = {
    **LTXV, "audio_in_channels": 128, "audio_cross_attention_dim": 32, "audio_attention_head_dim": 16,
    "audio_num_attention_heads": 2, "connector_attention_head_dim": 24, "connector_num_attention_heads": 2,
}  # fmt: skip
HYDIT = {
    "hidden_size": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "text_states_dim": WIDTH,
    "text_states_dim_t5": 32, "text_len": 12, "text_len_t5": 10, "size_cond": True,
}  # fmt: skip
PIXART = {
    "hidden_size": 96, "depth": 3, "num_heads": 4, "caption_channels": WIDTH, "model_max_length": 12,
    "pe_interpolation": 1.0,
}  # fmt: skip
COSMOS1 = {
    **{name: value for name, value in COSMOS.items() if "fps" not in name}, "concat_padding_mask": True, "block_config": "FA-CA-MLP", "block_x_format": "THWBD",
    "pos_emb_learnable": False, "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
CASCADE = {
    "c_cond": 64, "c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]], "c_clip_text": WIDTH,
    "c_r": 16, "stable_cascade_stage": "c",
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


def stable_audio_3() -> Any:
    config = comfy.supported_models.StableAudio3({**AUDIO3, "audio_model": "dit1.0"})
    config.set_inference_dtype(torch.float32, None)
    numbers = comfy.ldm.audio.embedders.NumberConditioner(768, 0, 384, fourier_features_type="expo")
    return _patcher(comfy.model_base.StableAudio3(config, numbers.state_dict(), device=CPU))


def _of(kind: str, image_model: str, base: str, config: dict[str, Any]) -> Callable[..., Any]:
    """How to make a model of a kind of ``comfy.supported_models`` with a class of ``comfy.model_base``."""

    def make(**changes: Any) -> Any:
        read = getattr(comfy.supported_models, kind)({**config, "image_model": image_model, **changes})
        return _patcher(_model(read, getattr(comfy.model_base, base)))

    return make


def wan_i2v() -> Any:
    return _of("WAN21_I2V", "wan2.1", "WAN21", {**WAN, "model_type": "i2v"})()


def cascade() -> Any:
    config = comfy.supported_models.Stable_Cascade_C(dict(CASCADE))
    return _patcher(_model(config, comfy.model_base.StableCascade_C))


VACE = {**WAN, "model_type": "vace", "vace_layers": 3, "vace_in_dim": 96}
MODELS: dict[str, Callable[..., Any]] = {
    "anima": anima,
    "cosmos": cosmos,
    "wan": wan,
    "wan_vace": _of("WAN21_Vace", "wan2.1", "WAN21_Vace", VACE),
    "wan_causal": _of("WAN21_CausalAR_T2V", "wan2.1", "WAN21_CausalAR", {**WAN, "causal_ar": True}),
    "kandinsky": kandinsky,
    "stable_audio": stable_audio,
    "stable_audio_3": stable_audio_3,
    "ltxv": _of("LTXV", "ltxv", "LTXV", LTXV),
    "ltx2": _of("LTXAV", "ltxav", "LTXAV", LTXAV),
    "ltx23": _of("LTXAV", "ltxav", "LTXAV", {**LTXAV, "cross_attention_adaln": True}),
    "hunyuan": _of("HunyuanDiT", "hydit", "HunyuanDiT", HYDIT),
    "pixart": _of("PixArtSigma", "pixart_sigma", "PixArt", PIXART),
    "cosmos1": _of("CosmosT2V", "cosmos", "CosmosVideo", COSMOS1),
    "cascade": cascade,
}
LATENTS = {
    "anima": (16, 1, 4, 4),
    "cosmos": (16, 1, 4, 4),
    "wan": (16, 2, 4, 4),
    "kandinsky": (16, 4, 4),
    "stable_audio": (64, 8),
    "wan_vace": (16, 2, 4, 4),
    "wan_causal": (16, 2, 4, 4),
    "stable_audio_3": (64, 8),
    "ltxv": (128, 2, 2, 2),
    "ltx2": (128, 2, 2, 2),
    "ltx23": (128, 2, 2, 2),
    "hunyuan": (4, 8, 8),
    "pixart": (4, 34, 34),
    "cosmos1": (16, 1, 4, 4),
    "cascade": (16, 4, 4),
}


def prompt(kind: str, seed: int, tokens: int = 12, batch: int = 1) -> list[list[Any]]:
    """A CONDITIONING as the kind's text encoder would make it, of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    width = 768 if kind.startswith("stable_audio") else WIDTH
    options: dict[str, Any] = {"pooled_output": torch.randn(1, 1280, generator=generator)}
    if kind == "anima":
        options["t5xxl_ids"] = torch.randint(0, 32128, (tokens,), generator=generator)
        options["t5xxl_weights"] = torch.ones(tokens)
    if kind in ("ltxv", "hunyuan"):
        options["attention_mask"] = _mask(generator, batch, tokens)
    if kind == "hunyuan":
        options["conditioning_mt5xl"] = torch.randn(batch, 10, 32, generator=generator)
        options["attention_mask_mt5xl"] = _mask(generator, batch, 10)
    return [[torch.randn(batch, tokens, width, generator=generator), options]]


def _mask(generator: torch.Generator, batch: int, tokens: int) -> Tensor:
    """A mask of a text that is padded to ``tokens``."""
    used = int(torch.randint(2, tokens, (1,), generator=generator))
    return (torch.arange(tokens) < used).long().expand(batch, -1).clone()


def noise(kind: str, batch: int = 1) -> Any:
    """Noise in the kind's latent shape; for LTX-2 of video and audio."""
    generator = torch.Generator().manual_seed(7)
    video = torch.randn(batch, *LATENTS[kind], generator=generator)
    if kind not in ("ltx2", "ltx23"):
        return video
    audio = torch.randn(batch, 8, 3, 16, generator=generator)
    return comfy.nested_tensor.NestedTensor([video, audio])


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
        for name, buffer in model.diffusion_model.named_buffers():
            if name.endswith("inv_freq"):  # ComfyUI leaves it to the checkpoint
                buffer.copy_(torch.logspace(0, -4, len(buffer)))
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)
