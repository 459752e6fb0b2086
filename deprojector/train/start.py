"""Untrained deprojectors, started from the text encoder whose hidden states they learn."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..base import Config, Deprojector
from ..errors import DeprojectorError
from ..families import FAMILIES, TransformerConfig
from ..files import build

log = logging.getLogger("blockwork")

# Configurations that can be trained: name -> family.
PRESETS: dict[str, type[Deprojector]] = {name: family for family in FAMILIES for name in family.presets}


def sized(name: str, sizes: Mapping[str, Any]) -> Config:
    """The configuration of that name for a text encoder of these sizes (fields of ``ClipConfig``)."""
    if name not in PRESETS:
        raise DeprojectorError(f"Unknown family {name!r}. Available: {'; '.join(PRESETS)}.")
    family = PRESETS[name]
    return family.config_class.of_sizes(**sizes, **family.presets[name](sizes["hidden_size"]))


def preset(name: str, encoder: Mapping[str, Tensor], heads: int) -> Config:
    """The configuration of that name for a text encoder of these weights and heads."""
    positions = encoder["text_model.embeddings.position_embedding.weight"]
    inner = encoder["text_model.encoder.layers.0.mlp.fc1.weight"]
    return sized(
        name,
        dict(
            hidden_size=positions.shape[1],
            projection_dim=positions.shape[1],
            max_position_embeddings=positions.shape[0],
            intermediate_size=inner.shape[0],
            num_attention_heads=heads,
        ),
    )


def started(
    config: Config,
    encoder: Mapping[str, Tensor],
    rows: tuple[Tensor, Tensor],
    inverse: Tensor | None = None,
    seed: int = 0,
) -> Deprojector:
    """A deprojector ready to be trained, in float32.

    ``encoder`` is the text encoder's state dict under CLIP's names, from which the family's ``starts_from`` is
    copied. ``rows`` are its start row and its empty text's row. ``inverse`` is the inverse projection, which is
    not trained; without one the deprojector refuses images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = build(config, "cpu")
        if isinstance(config, TransformerConfig) and config.apply_mlp_to_input:
            for parameter in module.models[0].get_submodule("mlp_to_input").parameters():
                torch.nn.init.normal_(parameter, std=0.01)
    unit = module.models[0]
    with torch.no_grad():
        for key, source in _sources(module, encoder).items():
            unit.state_dict()[key].copy_(source)
        module.sos_embed.copy_(rows[0])
        if "null_embed" in module.state_dict():
            module.get_buffer("null_embed").copy_(rows[1])
    if inverse is not None:
        if inverse.shape != module.deprojection.shape:
            raise DeprojectorError(
                f"The inverse projection is {tuple(inverse.shape)}, this text encoder needs "
                f"{tuple(module.deprojection.shape)}. Use a deprojector of the same text encoder, or none."
            )
        module.deprojection.copy_(inverse)
    for name, parameter in unit.named_parameters():
        parameter.requires_grad = not name.startswith(module.frozen)
    return module


def _sources(module: Deprojector, encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensor that each tensor of the deprojector starts from."""
    layers = (re.match(r"text_model\.encoder\.layers\.(\d+)\.", key) for key in encoder)
    last = max(int(match[1]) for match in layers if match)
    sources = {}
    for key, tensor in module.models[0].state_dict().items():
        for own, theirs in module.starts_from.items():
            if key.startswith(own):
                sources[key] = encoder[theirs.format(last=last) + key.removeprefix(own)][: len(tensor)]
    return sources


def prepared_encoder(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The text encoder's weights and constant rows that ``prepare`` stored, and its number of heads."""
    path = folder / "encoder.safetensors"
    if not path.is_file():
        raise DeprojectorError(f"There is no prepared text encoder at {path}. Prepare it with --captions.")
    with safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        return weights, int(file.metadata()["heads"])


def inverse_projection(encoder: Mapping[str, Tensor]) -> Tensor | None:
    """The inverse of a text projection that was really loaded; None where there is none.

    SD1 checkpoints have no text_projection and ComfyUI does not initialise it: such a matrix is not finite, or
    zero, or (nearly) not invertible.
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
            "Deprojector: the text projection inverts badly (error %.1e). It is not used.", float(error)
        )
        return None
    return back
