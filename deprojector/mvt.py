"""Family Mvt: several layers of attention, vicinity and MLP over ``[embedding, zero, s_1, s_2, ...]``."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .base import Deprojector
from .config import MvtConfig
from .linear import Linear
from .parts import Attention, CausalAttention, KeyValues, Norm, Window, activation, positions


class MvtMlp(nn.Module):
    """The parameters of a layer's MLP."""

    def __init__(self, config: MvtConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(config.dim, config.mlp_layer_dim)
        self.linear2 = nn.Linear(config.mlp_layer_dim, config.dim)


class MvtVicinity(nn.Module):
    """The parameters of a layer's vicinity: one linear (with a bias only if activated or gated) or an MLP."""

    def __init__(self, config: MvtConfig):
        super().__init__()
        dim, hidden = config.dim, config.vicinity_mlp_dim
        inputs = dim * (1 + config.vicinity + config.all_in_vicinity)
        outputs = hidden if config.use_vicinity_mlp else dim
        if config.use_vicinity_gate:
            self.gate_linear = nn.Linear(dim * (2 + config.vicinity), outputs)
        if config.use_vicinity_mlp:
            self.linear1 = nn.Linear(inputs, hidden)
            self.linear2 = nn.Linear(hidden, dim)
        else:
            biased = bool(config.use_vicinity_gate or config.vicinity_act)
            self.linear = nn.Linear(inputs, dim, bias=biased)


class MvtLayer(nn.Module):
    """The parameters of one layer."""

    def __init__(self, config: MvtConfig, first: bool):
        super().__init__()
        if config.use_old_norm or not first:
            self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.attn = Attention(config.dim)
        if first or not config.only_first_vicinity:
            self.vicinity = MvtVicinity(config)
        self.mlp = MvtMlp(config)


class MvtModel(nn.Module):
    """The parameters of one unit."""

    def __init__(self, config: MvtConfig):
        super().__init__()
        self.position_embedding = nn.Embedding(config.rows, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([MvtLayer(config, k == 0) for k in range(config.num_vt_layers)])
        if not config.use_old_norm:
            self.final_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)


class MvtDeprojector(Deprojector):
    """Family Mvt."""

    def __init__(self, config: MvtConfig):
        super().__init__(config)
        self.register_buffer("deprojection", torch.zeros(config.dim, config.projection_dim))
        self.register_buffer("sos_embed", torch.zeros(config.dim))
        self.models = nn.ModuleList([MvtModel(config) for _ in range(config.ensemble_size)])

    def weights(self) -> "Weights":
        config = self.config
        models: Any = list(self.models)
        return Weights(
            position=positions([model.position_embedding for model in models]),
            norm=Norm([model.norm for model in models]),
            layers=[
                LayerWeights([model.layers[k] for model in models], config)
                for k in range(config.num_vt_layers)
            ],
            final_norm=None if config.use_old_norm else Norm([model.final_norm for model in models]),
        )

    def recursion(self, embeds: Tensor) -> "MvtRecursion":
        return MvtRecursion(self, embeds)


class Weights(NamedTuple):
    """Family Mvt's parameters, units stacked."""

    position: Tensor
    norm: Norm
    layers: list["LayerWeights"]
    final_norm: Norm | None


class LayerWeights:
    """One layer of every unit: ``x u b n d`` with its ``vicinity u b n (1+v)*d`` to ``u b n d``."""

    def __init__(self, layers: list[Any], config: MvtConfig):
        self.config = config
        self.act = activation(config.hidden_act)
        self.norm = Norm([layer.norm for layer in layers]) if hasattr(layers[0], "norm") else None
        self.attention = CausalAttention([layer.attn for layer in layers], config.num_attention_heads)
        self.mlp_norm = Norm([layer.mlp.norm for layer in layers])
        self.mlp1 = Linear.of([layer.mlp.linear1 for layer in layers])
        self.mlp2 = Linear.of([layer.mlp.linear2 for layer in layers])
        self.has_vicinity = hasattr(layers[0], "vicinity")
        if self.has_vicinity:
            near = [layer.vicinity for layer in layers]
            names = [name for name, _ in near[0].named_children()]
            self.near = {name: Linear.of([getattr(part, name) for part in near]) for name in names}
            self.near_act = activation(config.vicinity_act or "linear")

    def __call__(self, x: Tensor, vicinity: Tensor, cache: KeyValues) -> Tensor:
        early = self.config.vicinity_before_attention
        if self.has_vicinity and early:
            x = self._vicinity(x, vicinity)
        x = x + self.attention(
            x if self.config.use_old_norm or self.norm is None else self.norm(x), cache, x.shape[2]
        )
        if self.has_vicinity and not early:
            x = self._vicinity(x, vicinity)
        x = x + self.mlp2(self.act(self.mlp1(self.mlp_norm(x))))
        return self.norm(x) if self.config.use_old_norm and self.norm is not None else x

    def _vicinity(self, x: Tensor, vicinity: Tensor) -> Tensor:
        config, near = self.config, self.near
        residual = x + vicinity[..., : config.dim] if config.vicinity_res_plus_embeds else x
        everything = torch.cat([x, vicinity], dim=-1)
        inputs = everything if config.all_in_vicinity else vicinity
        gate = torch.sigmoid(near["gate_linear"](everything)) if config.use_vicinity_gate else None
        if config.use_vicinity_mlp:
            made = self.act(near["linear1"](inputs))
            return residual + near["linear2"](made if gate is None else gate * made)
        made = self.near_act(near["linear"](inputs))
        return residual + (made if gate is None else gate * made)


class MvtRecursion:
    """One run of family Mvt; one key-value cache per layer."""

    def __init__(self, model: MvtDeprojector, embeds: Tensor):
        config: MvtConfig = model.config
        self.w: Weights = model.laid_out()
        self.embed = self.w.norm(embeds[None, :, None].expand(config.ensemble_size, -1, -1, -1))
        self.zero = torch.zeros_like(self.embed)
        self.caches = [KeyValues(config.rows) for _ in self.w.layers]
        self.window = Window(config.vicinity, self.zero)
        self.place = 0

    def step(self, rows: Tensor | None) -> Tensor:
        if rows is None:
            # row 0 (the embedding) and row 1 (zero) have nothing in their vicinity
            states, near = torch.cat([self.embed, self.zero], dim=2), [self.zero] * self.window.size
        else:
            states = self.w.norm(rows)
            near = self.window(states)
        end = self.place + states.shape[2]
        x = states + self.w.position[:, :, self.place : end]
        self.place = end
        shape = (*x.shape[:3], -1)
        vicinity = torch.cat([part.expand(shape) for part in (self.embed, *near)], dim=-1)
        for layer, cache in zip(self.w.layers, self.caches, strict=True):
            x = layer(x, vicinity, cache)
        if rows is None:
            x = x[:, :, 1:]
        return self.w.final_norm(x) if self.w.final_norm else x
