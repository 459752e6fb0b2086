"""Tiny transformers of core's own classes that run on the CPU: how to build each, and inputs for one call."""

from collections.abc import Callable
from typing import Any

import torch

from . import networks

_FLUX = {
    "hidden_size": 64, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12],
    "context_in_dim": 24, "vec_in_dim": 20,
}  # fmt: skip
_FLUX2 = {
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 8, 8, 8],
    "context_in_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
}
_COSMOS = {
    "model_channels": 64,
    "num_heads": 2,
    "num_blocks": 3,
    "crossattn_emb_channels": 24,
    "adaln_lora_dim": 8,
}
_LUMINA = {
    "dim": 96, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "cap_feat_dim": 24, "axes_dims": [8, 8, 8], "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
}  # fmt: skip

# name of networks.NETWORKS -> changes to the arguments
CHANGES: dict[str, dict[str, Any]] = {
    "Flux.1 dev": _FLUX,
    "Flux.2 klein 4B": _FLUX2,
    "Chroma": {k: v for k, v in _FLUX.items() if k != "vec_in_dim"} | {"in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2},
    "SD3": {
        "depth": 2, "adm_in_channels": 20, "pos_embed_max_size": 16,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 24, "out_features": 128}},
    },
    "AuraFlow": {"dim": 64, "n_layers": 4, "n_double_layers": 2, "n_heads": 2, "cond_seq_dim": 24, "max_seq": 64, "global_conddim": 64},
    "LTXV": {"cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": 24, "num_layers": 3, "in_channels": 8},
    "HunyuanVideo": _FLUX | {"in_channels": 4, "out_channels": 4},
    "Cosmos Predict2": _COSMOS,
    "Anima": _COSMOS | {"crossattn_emb_channels": 1024},
    "Lumina 2": _LUMINA,
    "Z-Image": _LUMINA | {"dim": 256, "axes_dims": [16, 24, 24]},
    "Wan 2.1": {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 3, "text_dim": 24, "freq_dim": 16, "in_dim": 4, "out_dim": 4},
    "OmniGen2": {"hidden_size": 96, "num_layers": 3, "num_attention_heads": 4, "num_kv_heads": 4, "text_feat_dim": 24, "axes_dim_rope": (8, 8, 8), "multiple_of": 32},
    "Qwen-Image": {"num_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12), "in_channels": 16, "out_channels": 4},
    "Krea 2": {"features": 256, "tdim": 16, "txtdim": 256, "heads": 2, "kvheads": 2, "layers": 3, "channels": 4, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
    "Lens": {"num_layers": 3, "num_attention_heads": 1, "enc_hidden_dim": 24, "in_channels": 16, "out_channels": 4, "multi_layer_encoder_feature": False},
    "Ernie-Image": {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 3, "ffn_hidden_size": 64, "in_channels": 16, "out_channels": 16, "text_in_dim": 24},
    "CogVideoX": {"num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16, "text_embed_dim": 24, "num_layers": 3, "use_rotary_positional_embeddings": True},
    "Kandinsky 5": {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 24, "in_text_dim2": 20, "time_dim": 32, "model_dim": 64, "ff_dim": 64, "visual_embed_dim": 16, "num_visual_blocks": 2, "axes_dims": (8, 12, 12)},
    "Ideogram 4": {"in_channels": 16, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 32, "intermediate_size": 64, "adaln_dim": 16, "llm_features_dim": 24, "mrope_section": (4, 6, 6)},
    "Hunyuan3D 2": {"in_channels": 8, "context_in_dim": 24, "hidden_size": 64, "num_heads": 2, "depth": 2, "depth_single_blocks": 2},
    "Mage-Flow": {"num_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12), "in_channels": 16, "out_channels": 16},
    "HiDream I1": {"attention_head_dim": 32, "axes_dims_rope": [16, 8, 8], "caption_channels": [24, 24], "num_attention_heads": 2, "num_layers": 2, "num_single_layers": 2, "llama_layers": [0, 1, 1, 1], "text_emb_dim": 20, "in_channels": 4, "out_channels": 4, "num_routed_experts": 2},
}  # fmt: skip

_T = torch.tensor([0.5])


def _named(name: str, *shape: int) -> Callable[[Callable], dict[str, Any]]:
    return lambda noise: {"x": noise(*shape), name: _T, "context": noise(1, 7, 24)}


INPUTS: dict[str, Callable[[Callable], dict[str, Any]]] = {
    "Flux.1 dev": lambda n: {"x": n(1, 16, 8, 8), "timestep": _T, "context": n(1, 7, 24), "y": n(1, 20), "guidance": _T},
    "Flux.2 klein 4B": _named("timestep", 1, 16, 8, 8),
    "Chroma": lambda n: {"x": n(1, 16, 8, 8), "timestep": _T, "context": n(1, 7, 24), "guidance": _T},
    "SD3": lambda n: {"x": n(1, 16, 8, 8), "t": _T, "context": n(1, 7, 24), "y": n(1, 20)},
    "AuraFlow": _named("timestep", 1, 4, 8, 8),
    "LTXV": lambda n: {"x": n(1, 8, 2, 4, 4), "timestep": _T, "context": n(1, 7, 24), "attention_mask": None},
    "HunyuanVideo": lambda n: {"x": n(1, 4, 2, 8, 8), "timestep": _T, "context": n(1, 7, 24), "y": n(1, 20), "guidance": _T},
    "Cosmos Predict2": _named("timesteps", 1, 16, 1, 8, 8),
    "Anima": lambda n: {"x": n(1, 16, 1, 8, 8), "timesteps": _T, "context": n(1, 7, 1024), "t5xxl_ids": torch.arange(5)[None]},
    "Lumina 2": lambda n: {"x": n(1, 16, 8, 8), "timesteps": _T, "context": n(1, 7, 24), "num_tokens": 7},
    "Z-Image": lambda n: {"x": n(1, 16, 8, 8), "timesteps": _T, "context": n(1, 7, 24), "num_tokens": 7},
    "Wan 2.1": _named("timestep", 1, 4, 1, 8, 8),
    "OmniGen2": lambda n: {"x": n(1, 16, 8, 8), "timesteps": _T, "context": n(1, 7, 24), "num_tokens": 7},
    "Qwen-Image": _named("timestep", 1, 4, 1, 8, 8),
    "Krea 2": lambda n: {"x": n(1, 4, 8, 8), "timesteps": _T, "context": n(1, 7, 512)},
    "Lens": _named("timestep", 1, 16, 4, 4),
    "Ernie-Image": _named("timesteps", 1, 16, 4, 4),
    "CogVideoX": lambda n: {"x": n(1, 4, 1, 8, 8), "timestep": _T, "context": n(1, 7, 24)},
    "Kandinsky 5": lambda n: {"x": n(1, 4, 1, 8, 8), "timestep": _T, "context": n(1, 7, 24), "y": n(1, 20)},
    "Ideogram 4": _named("timesteps", 1, 16, 4, 4),
    "Hunyuan3D 2": lambda n: {"x": n(1, 8, 16), "timestep": _T, "context": n(1, 7, 24)},
    "Mage-Flow": _named("timestep", 1, 16, 4, 4),
    "HiDream I1": lambda n: {"x": n(1, 4, 8, 8), "t": _T, "y": n(1, 20), "context": n(1, 7, 24), "encoder_hidden_states_llama3": n(1, 2, 7, 24)},
}  # fmt: skip


def build(name: str, seed: int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The tiny network with seeded random weights."""
    return fill(networks.build(name, "cpu", dtype, **CHANGES[name]), seed).eval()


def fill(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Seeded random weights of a scale that keeps activations finite, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            rows = min(len(parameter), 1000)  # Anima's table of 32,128 words repeats itself
            values = torch.randn((rows, *parameter.shape[1:]), generator=generator)
            values = values.repeat(-(-len(parameter) // rows), *[1] * (parameter.ndim - 1))[: len(parameter)]
            parameter.copy_(values / max(1, parameter[0].numel()) ** 0.5)
    return network


def inputs(name: str, seed: int = 0) -> dict[str, Any]:
    """Keyword arguments for one call of the network."""
    generator = torch.Generator().manual_seed(seed)
    return INPUTS[name](lambda *shape: torch.randn(shape, generator=generator))
