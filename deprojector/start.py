"""Untrained deprojectors, started from the text encoder they are to undo."""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .base import Deprojector
from .config import ClipConfig, LstmConfig, TransformerConfig, VrnnConfig
from .errors import DeprojectorError
from .loading import build

log = logging.getLogger("blockwork")

KEPT = dict(x_residual=False, h0_residual=True, x_out_residual=True)
WIDE = dict(x_residual=False, h0_residual=True, states_proj=True)


def _lstm3(layers: int, **flags: Any) -> Callable[[dict[str, Any]], ClipConfig]:
    return lambda sizes: LstmConfig(**sizes, use_model3=True, num_layers=layers, **flags)


def _wide(layers: int, eighths: int) -> Callable[[dict[str, Any]], ClipConfig]:
    return lambda sizes: _lstm3(layers, lstm_hidden_size=sizes["hidden_size"] * eighths // 8, **WIDE)(sizes)


# What can be trained: name -> configuration for an encoder of these sizes.
PRESETS: dict[str, Callable[[dict[str, Any]], ClipConfig]] = {
    "transformer": lambda sizes: TransformerConfig(**sizes, relative_to_null=True),
    "transformer, MLP on the input": lambda sizes: TransformerConfig(
        **sizes, relative_to_null=True, apply_mlp_to_input=True
    ),
    "LSTM 1": lambda sizes: LstmConfig(
        **sizes, lstm_hidden_size=sizes["hidden_size"], use_extra=True, use_out_proj=True
    ),
    "LSTM 2": lambda sizes: LstmConfig(**sizes, use_model2=True),
    "LSTM 3, initial, 1 layer": _lstm3(1),
    "LSTM 3, initial, 2 layers": _lstm3(2),
    "LSTM 3, information kept, 1 layer": _lstm3(1, **KEPT),
    "LSTM 3, wide 1x, 2 layers": _wide(2, 8),
    "LSTM 3, wide 1.25x, 2 layers": _wide(2, 10),
    "LSTM 3, wide 1.5x, 1 layer": _wide(1, 12),
    "VRNN": lambda sizes: VrnnConfig(**sizes, m1_type="mlp", m1_f_size=sizes["hidden_size"]),
}


def preset(name: str, encoder: Mapping[str, Tensor], heads: int) -> ClipConfig:
    """The configuration of that name for a text encoder of these weights and heads."""
    if name not in PRESETS:
        raise DeprojectorError(f"unknown family {name!r}; known are {', '.join(PRESETS)}.")
    positions = encoder["text_model.embeddings.position_embedding.weight"]
    inner = encoder["text_model.encoder.layers.0.mlp.fc1.weight"]
    return PRESETS[name](
        dict(
            hidden_size=positions.shape[1],
            projection_dim=positions.shape[1],
            max_position_embeddings=positions.shape[0],
            intermediate_size=inner.shape[0],
            num_attention_heads=heads,
        )
    )


def started(
    config: ClipConfig,
    encoder: Mapping[str, Tensor],
    rows: tuple[Tensor, Tensor],
    inverse: Tensor | None = None,
    seed: int = 0,
) -> Deprojector:
    """A deprojector ready to be trained, in float32.

    ``encoder`` is the text encoder's state dict under CLIP's names; its last layer, position table and final
    norm become family T's, its final norm everyone's (frozen for LSTM 2, 3 and VRNN, as published). ``rows`` are
    its start row and its empty text's row. ``inverse`` is the inverse projection, fixed; without one images
    cannot be used, and the identity stands in.
    """
    torch.manual_seed(seed)
    module = build(config, "cpu")
    own = dict(module.state_dict())
    for key, source in _sources(own, encoder).items():
        own[key].copy_(source)
    own["sos_embed"].copy_(rows[0])
    if "null_embed" in own:
        own["null_embed"].copy_(rows[1])
    for key in ("projection.weight", "deprojection"):
        if key in own:
            if inverse is not None and inverse.shape != own[key].shape:
                raise DeprojectorError(
                    f"the inverse projection is {tuple(inverse.shape)}, this text encoder needs "
                    f"{tuple(own[key].shape)}: take it from a deprojector of the same text encoder, or none."
                )
            own[key].copy_(torch.eye(config.dim) if inverse is None else inverse)
    if isinstance(config, TransformerConfig) and config.apply_mlp_to_input:
        for parameter in module.get_submodule("mlp_to_input").parameters():
            torch.nn.init.normal_(parameter, std=0.01)
    frozen = ["projection.weight"]
    if not isinstance(config, TransformerConfig) and not _is_lstm1(config):
        frozen.append("final_norm")
    for name, parameter in module.named_parameters():
        parameter.requires_grad = not any(part in name for part in frozen)
    return module


def _is_lstm1(config: ClipConfig) -> bool:
    return isinstance(config, LstmConfig) and not (config.use_model2 or config.use_model3)


def _sources(own: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which of the encoder's tensors each of the deprojector's starts from."""
    last = max(int(m[1]) for key in encoder if (m := re.match(r"text_model\.encoder\.layers\.(\d+)\.", key)))
    sources = {}
    for key in own:
        if key.startswith("encoder_layer."):
            name = f"text_model.encoder.layers.{last}.{key.removeprefix('encoder_layer.')}"
        elif key == "position_embedding.weight":
            name = "text_model.embeddings.position_embedding.weight"
        elif match := re.search(r"(?:^|\.)final_(?:layer_)?norm\.(weight|bias)$", key):
            name = f"text_model.final_layer_norm.{match[1]}"
        else:
            continue
        sources[key] = encoder[name]
    return sources


def inverse_projection(encoder: Mapping[str, Tensor]) -> Tensor | None:
    """The inverse of a text projection that was really loaded; None where there is none.

    SD1 checkpoints have no text_projection and ComfyUI leaves its memory as it was: such a matrix is not finite,
    or empty, or (nearly) not invertible.
    """
    forth = encoder.get("text_projection.weight")
    if forth is None or forth.shape[0] != forth.shape[1] or not forth.isfinite().all():
        return None
    forth = forth.float().cpu()
    back, failed = torch.linalg.inv_ex(forth)
    if failed or not back.isfinite().all():
        return None
    error = (forth @ back - torch.eye(len(forth))).abs().max()
    if error > 1e-3:
        log.warning(
            "deprojector: the text projection inverts badly (error %.1e); it is not used", float(error)
        )
        return None
    return back
