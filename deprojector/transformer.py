"""Family T: one CLIP encoder layer, from the first published model (3d9d890) to HEAD.

The sequence starts with two slots made from the embedding; slot ``i >= 2`` stands for the row before it, and
output ``i`` is row ``i``. Every flag changes how a slot is made or what is added to the layer's output.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .base import Deprojector
from .config import TransformerConfig
from .linear import Linear
from .parts import (
    Attention,
    CausalAttention,
    KeyValues,
    Mlp,
    Norm,
    activation,
    per_unit,
    positions,
    shifted,
)


class EncoderLayer(nn.Module):
    """The parameters of a CLIP encoder layer, under its names."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.self_attn = Attention(config.dim)
        self.layer_norm1 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.dim, config.intermediate_size)
        self.layer_norm2 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)


class TransformerDeprojector(Deprojector):
    """Family T. A single model's parameters have bare names, an ensemble's carry the unit's number."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        dim = config.dim
        self.register_buffer("position_ids", torch.arange(config.rows)[None])
        self.register_buffer("sos_embed", torch.zeros(dim))
        if config.has_null:
            self.register_buffer("null_embed", torch.zeros(dim))
        self.projection = nn.Linear(config.projection_dim, dim, bias=False)
        if config.expand:
            self.expand = nn.Linear(dim, dim)
        if config.state_projection:
            self.state_proj = self._per_unit(lambda: nn.Linear(3 * dim, dim))
        elif config.state_weited_sum:
            weights = [nn.Parameter(torch.tensor([[0.0], [1.0], [0.0]])) for _ in range(config.ensemble_size)]
            self.state_weight = weights[0] if len(weights) == 1 else nn.ParameterList(weights)
        if config.apply_mlp_to_input:
            self.mlp_to_input = self._per_unit(lambda: Mlp(dim, config.intermediate_size))
        self.position_embedding = self._per_unit(lambda: nn.Embedding(config.rows, dim))
        self.encoder_layer = self._per_unit(lambda: EncoderLayer(config))
        self.final_layer_norm = self._per_unit(lambda: nn.LayerNorm(dim, eps=config.layer_norm_eps))

    def _per_unit(self, make: Any) -> nn.Module:
        count = self.config.ensemble_size
        return make() if count == 1 else nn.ModuleList([make() for _ in range(count)])

    def units(self, name: str) -> list[Any]:
        """That part of every unit."""
        part = getattr(self, name)
        return [part] if self.config.ensemble_size == 1 else list(part)

    @property
    def projection_inverse(self) -> Tensor:
        return self.projection.weight

    def weights(self) -> "Weights":
        config = self.config
        layers = self.units("encoder_layer")
        mlps = [layer.mlp for layer in layers]
        weights = Weights(
            act=activation(config.hidden_act),
            position=positions(self.units("position_embedding")),
            norm1=Norm([layer.layer_norm1 for layer in layers]),
            attention=CausalAttention([layer.self_attn for layer in layers], config.num_attention_heads),
            norm2=Norm([layer.layer_norm2 for layer in layers]),
            fc1=Linear.of([mlp.fc1 for mlp in mlps]),
            fc2=Linear.of([mlp.fc2 for mlp in mlps]),
            final_norm=Norm(self.units("final_layer_norm")),
        )
        if config.apply_mlp_to_input:
            mlps = self.units("mlp_to_input")
            weights = weights._replace(
                input1=Linear.of([mlp.fc1 for mlp in mlps]), input2=Linear.of([mlp.fc2 for mlp in mlps])
            )
        if config.state_projection:
            weights = weights._replace(mix=Linear.of(self.units("state_proj")))
        elif config.state_weited_sum:
            weights = weights._replace(share=per_unit(self.units("state_weight")).view(-1, 3, 1, 1, 1))
        return weights

    def recursion(self, embeds: Tensor) -> "TransformerRecursion":
        return TransformerRecursion(self, embeds)


class Weights(NamedTuple):
    """Family T's parameters, units stacked."""

    act: Any
    position: Tensor
    norm1: Norm
    attention: CausalAttention
    norm2: Norm
    fc1: Linear
    fc2: Linear
    final_norm: Norm
    input1: Any = None  # the MLP of the first slot
    input2: Any = None
    mix: Any = None  # state_projection
    share: Any = None  # state_weited_sum, u 3 1 1 1


class TransformerRecursion:
    """One run of family T; keys and values are cached, so every step pushes one row through the layer."""

    def __init__(self, model: TransformerDeprojector, embeds: Tensor):
        self.model: Any = model
        self.config: TransformerConfig = model.config
        self.w: Weights = model.laid_out()
        self.embed = embeds[None, :, None].expand(model.config.ensemble_size, -1, -1, -1)  # u b 1 d
        self.null: Any = model.null_embed if model.config.has_null else torch.zeros_like(embeds[0])
        self.relative = self.embed - self.null if model.config.relative_to_null else self.embed
        self.cache = KeyValues(model.config.rows)
        self.slot = 2
        self.before = self.null.expand_as(
            self.embed
        )  # s_{t-1}; what comes before the first row is the empty text

    def step(self, rows: Tensor | None) -> Tensor:
        position = self.w.position
        if rows is None:
            slots = self._first_slots() + position[:, :, :2]
            residual = self.config.residual_wrt_prev or self.config.residual_wrt_hidden
            return self._layer(slots, self.null if residual else None)
        end = self.slot + rows.shape[2]
        slots = self._slots(rows) + position[:, :, self.slot : end]
        self.slot = end
        return self._layer(slots, self._residual(rows, slots))

    def _first_slots(self) -> Tensor:
        config, model = self.config, self.model
        if config.expand:
            first = activation("quick_gelu")(model.expand(self.relative))
        elif config.apply_mlp_to_input:
            first = self.w.input2(self.w.act(self.w.input1(self.relative)))
        elif config.embed_second:
            first = self.null.expand_as(self.embed)
        else:
            start = model.sos_embed - self.null if config.relative_to_null else model.sos_embed
            return torch.cat([self.relative, start.expand_as(self.embed)], dim=2)
        return torch.cat([first, self.relative], dim=2)

    def _slots(self, rows: Tensor) -> Tensor:
        """The slots that stand for ``rows``, before the positions are added."""
        config = self.config
        previous = shifted(rows, self.before)
        self.before = rows[:, :, -1:]
        if config.state_weited_sum:
            parts = [previous, rows, self.relative.expand_as(rows)]
            if config.relative_to_null:
                parts[:2] = [previous - self.null, rows - self.null]
            if self.w.share is None:  # both flags set: the projection mixes these parts
                return self.w.mix(torch.cat(parts, dim=-1))
            return (self.w.share * torch.stack(parts, dim=1)).sum(1)
        if config.state_projection:
            return self.w.mix(torch.cat([rows - previous, rows - self.null, self.embed - rows], dim=-1))
        if config.relative_to_prev:
            return rows - previous
        return rows - self.null if config.relative_to_null else rows

    def _residual(self, rows: Tensor, slots: Tensor) -> Tensor | None:
        if self.config.residual_wrt_prev:
            return rows
        return slots + self.null if self.config.residual_wrt_hidden else None

    def _layer(self, slots: Tensor, residual: Tensor | None) -> Tensor:
        """The encoder layer and the final norm; of the two first slots only the second gives a row."""
        w = self.w
        wanted = 1 if self.cache.empty else slots.shape[2]
        x = slots[:, :, -wanted:] + w.attention(w.norm1(slots), self.cache, last=wanted)
        x = x + w.fc2(w.act(w.fc1(w.norm2(x))))
        return w.final_norm(x if residual is None else x + residual)
