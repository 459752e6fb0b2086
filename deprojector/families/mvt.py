"""Family Mvt: several layers of attention, vicinity and MLP over ``[embedding, zero, s_1, s_2, ...]``."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base import ClipConfig, Deprojector, Step, Unit
from ..layers import Attention, KeyValues, Linear, NormedMlp, Window, activation, beside


@dataclass(frozen=True)
class MvtConfig(ClipConfig):
    """The fields of family Mvt."""

    model_type: ClassVar[str] = "clip_text_deprojector_mvt_model"

    vicinity: int = 2
    only_first_vicinity: bool = False
    vicinity_before_attention: bool = False
    vicinity_res_plus_embeds: bool = False
    all_in_vicinity: bool = False
    use_vicinity_mlp: bool = False
    vicinity_mlp_dim: int = 768
    vicinity_act: str = ""
    use_vicinity_gate: bool = False
    num_vt_layers: int = 1
    mlp_layer_dim: int = 3072
    use_old_norm: bool = True


class MvtVicinity(nn.Module):
    """What the embedding and the last rows add: one linear (biased only if activated or gated) or an MLP."""

    def __init__(self, config: MvtConfig):
        super().__init__()
        self.config = config
        dim, hidden = config.dim, config.vicinity_mlp_dim
        inputs = dim * (1 + config.vicinity + config.all_in_vicinity)
        self.act = activation(
            config.hidden_act if config.use_vicinity_mlp else config.vicinity_act or "linear"
        )
        if config.use_vicinity_gate:
            outputs = hidden if config.use_vicinity_mlp else dim
            self.gate_linear = Linear(dim * (2 + config.vicinity), outputs)
        if config.use_vicinity_mlp:
            self.linear1 = Linear(inputs, hidden)
            self.linear2 = Linear(hidden, dim)
        else:
            self.linear = Linear(inputs, dim, bias=bool(config.use_vicinity_gate or config.vicinity_act))

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        config = self.config
        both = torch.cat([x, near], dim=-1)
        residual = x + near[..., : config.dim] if config.vicinity_res_plus_embeds else x
        first = self.linear1 if config.use_vicinity_mlp else self.linear
        made = self.act(first(both if config.all_in_vicinity else near))
        if config.use_vicinity_gate:
            made = torch.sigmoid(self.gate_linear(both)) * made
        return residual + (self.linear2(made) if config.use_vicinity_mlp else made)


class MvtLayer(nn.Module):
    """One layer: ``x b n d`` and its vicinity ``b n (1+v)*d`` to ``b n d``."""

    def __init__(self, config: MvtConfig, first: bool):
        super().__init__()
        self.config = config
        if config.use_old_norm or not first:
            self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.attn = Attention(config.dim, config.num_attention_heads)
        if first or not config.only_first_vicinity:
            self.vicinity = MvtVicinity(config)
        self.mlp = NormedMlp(config.dim, config.mlp_layer_dim, config.hidden_act, config.layer_norm_eps)

    def forward(self, x: Tensor, near: Tensor, cache: KeyValues) -> Tensor:
        config, has_norm, has_vicinity = self.config, hasattr(self, "norm"), hasattr(self, "vicinity")
        if has_vicinity and config.vicinity_before_attention:
            x = self.vicinity(x, near)
        normed = self.norm(x) if has_norm and not config.use_old_norm else x
        x = x + self.attn(normed, cache, x.shape[1])
        if has_vicinity and not config.vicinity_before_attention:
            x = self.vicinity(x, near)
        x = x + self.mlp(x)
        return self.norm(x) if has_norm and config.use_old_norm else x


class MvtUnit(Unit):
    """One unit of family Mvt."""

    def __init__(self, config: MvtConfig):
        super().__init__(config)
        self.position_embedding = nn.Embedding(config.rows, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([MvtLayer(config, k == 0) for k in range(config.num_vt_layers)])
        if not config.use_old_norm:
            self.final_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)

    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        config, position = self.config, self.position_embedding.weight
        embed = self.norm(embed[:, None])
        zero = torch.zeros_like(embed)
        caches = [KeyValues(config.rows) for _ in self.layers]
        window = Window(config.vicinity, zero)
        place = 0

        def step(rows: Tensor | None) -> Tensor:
            nonlocal place
            if rows is None:
                # row 0 (the embedding) and row 1 (zero) have nothing in their vicinity
                x = torch.cat([embed, zero], dim=1)
                near = [torch.zeros_like(x)] * config.vicinity
            else:
                x = self.norm(rows)
                near = window(x)
            vicinity = beside(embed, near) if near else embed.expand_as(x)
            end = place + x.shape[1]
            x, place = x + position[place:end], end
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, vicinity, cache)
            if rows is None:
                x = x[:, 1:]
            return x if config.use_old_norm else self.final_norm(x)

        return step


class MvtDeprojector(Deprojector):
    """Family Mvt."""

    config_class = MvtConfig
    unit_class = MvtUnit
    sign = "models.0.layers.0.attn."
    presets = {"Mvt": lambda width: dict(vicinity_mlp_dim=width, mlp_layer_dim=4 * width)}
    starts_from = {
        "position_embedding.": "text_model.embeddings.position_embedding.",
        "layers.0.attn.": "text_model.encoder.layers.{last}.self_attn.",
        "layers.0.norm.": "text_model.final_layer_norm.",
    }
