"""Family VT: causal attention beside a vicinity layer that sees the embedding and the last rows.

Sequence row ``j`` stands for hidden state ``j`` (row 0 is zero) and predicts hidden state ``j + 1``.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .base import Deprojector
from .config import VtConfig
from .linear import Linear
from .parts import Attention, CausalAttention, KeyValues, Norm, Window, activation, positions


class VtMlp(nn.Module):
    """The parameters of one MLP layer."""

    def __init__(self, config: VtConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(config.dim, config.mlp_layer_dim)
        self.linear2 = nn.Linear(config.mlp_layer_dim, config.dim)


class VtDeprojector(Deprojector):
    """Family VT; every part is a list with one member per unit."""

    def __init__(self, config: VtConfig):
        super().__init__(config)
        dim = config.dim
        self.register_buffer("deprojection", torch.zeros(dim, config.projection_dim))
        self.register_buffer("sos_embed", torch.zeros(dim))
        self.register_buffer("null_embed", torch.zeros(dim))
        length = config.rows if config.embeds_in_attention else config.rows - 1
        self.position_embedding = self._each(lambda: nn.Embedding(length, dim))
        self.norm = self._each(lambda: nn.LayerNorm(dim, eps=config.layer_norm_eps))
        self.self_attn = self._each(lambda: Attention(dim))
        for name, (inputs, outputs) in self._first_layers().items():
            setattr(self, name, self._linears(inputs, outputs))
        if config.squashed:
            self.linear2 = self._each(lambda: nn.Linear(config.vicinity_dim, dim, bias=False))
        else:
            self.linear2 = self._linears(config.vicinity_dim + dim, dim)
        self.mlp_layers = self._each(
            lambda: nn.ModuleList([VtMlp(config) for _ in range(config.num_mlp_layers)])
        )
        if config.use_final_vicinity:
            self.final_linear = self._each(lambda: nn.Linear(config.vicinity_dim, dim, bias=False))
        self.final_norm = self._each(lambda: nn.LayerNorm(dim, eps=config.layer_norm_eps))

    def _first_layers(self) -> dict[str, tuple[int, int]]:
        """The linear layers of the vicinity: name -> (inputs, outputs)."""
        config: VtConfig = self.config
        dim, states, embed = config.dim, config.first_layer_dim, config.first_embed_layer_dim
        if config.use_mlp_first_layer:
            layers = {}
            if embed and not config.no_first_embed_layer and not config.use_same_mlp_first_layer:
                layers |= {"linear1_embeds1": (dim, embed), "linear1_embeds2": (embed, dim)}
            if states:
                layers |= {"linear1_states1": (dim, states), "linear1_states2": (states, dim)}
            return layers
        if config.use_individual_first_layer:
            before = config.first_embed_pre_layer_dim
            layers = {"linear_pre_embeds": (dim, before)} if before else {}
            return layers | {"linear1_embeds": (before or dim, embed), "linear1": (dim, states)}
        return {"linear1": (dim * (1 + config.vicinity), states)}

    def _each(self, make: Any) -> nn.ModuleList:
        return nn.ModuleList([make() for _ in range(self.config.ensemble_size)])

    def _linears(self, inputs: int, outputs: int) -> nn.ModuleList:
        return self._each(lambda: nn.Linear(inputs, outputs))

    def weights(self) -> "Weights":
        config = self.config
        units: Any = list(self.mlp_layers)
        return Weights(
            act=activation(config.hidden_act),
            position=positions(self.position_embedding),
            norm=Norm(self.norm),
            attention=CausalAttention(self.self_attn, config.num_attention_heads),
            first=self._first_weights(),
            linear2=Linear.of(self.linear2),
            mlps=[
                (
                    Norm([unit[k].norm for unit in units]),
                    Linear.of([unit[k].linear1 for unit in units]),
                    Linear.of([unit[k].linear2 for unit in units]),
                )
                for k in range(config.num_mlp_layers)
            ],
            final=Linear.of(self.final_linear) if config.use_final_vicinity else None,
            final_norm=Norm(self.final_norm),
        )

    def _first_weights(self) -> dict[str, Linear]:
        layers = {name: getattr(self, name) for name in self._first_layers()}
        if self.config.use_mlp_first_layer or self.config.use_individual_first_layer:
            return {name: Linear.of(layer) for name, layer in layers.items()}
        # the embedding's columns apart: their share is the same for every row
        dim = self.config.dim
        return {
            "embed": Linear.of(layers["linear1"], inputs=slice(None, dim)),
            "rows": Linear.of(layers["linear1"], inputs=slice(dim, None), bias=False),
        }

    def recursion(self, embeds: Tensor) -> "VtRecursion":
        return VtRecursion(self, embeds)


class Weights(NamedTuple):
    """Family VT's parameters, units stacked."""

    act: Any
    position: Tensor
    norm: Norm
    attention: CausalAttention
    first: dict[str, Linear]
    linear2: Linear
    mlps: list[tuple[Norm, Linear, Linear]]
    final: Linear | None
    final_norm: Norm


class VtRecursion:
    """One run of family VT."""

    def __init__(self, model: VtDeprojector, embeds: Tensor):
        config: VtConfig = model.config
        self.config = config
        self.null: Any = model.null_embed
        self.w: Weights = model.laid_out()
        embed = embeds[None, :, None].expand(config.ensemble_size, -1, -1, -1)  # u b 1 d
        if config.relative_to_null:
            embed = embed - self.null
        if config.apply_norm_first and config.apply_norm_to_all:
            embed = self.w.norm(embed)
        self.embed = embed
        self.zero = torch.zeros_like(embed)
        self.cache = KeyValues(config.rows)
        self.place = 0
        self.vicinity = _vicinity(config, self.w, embed, self.zero)
        self.final_window: Window | None = None

    def step(self, rows: Tensor | None) -> Tensor:
        return self._predict(self.zero if rows is None else self._states(rows), first=rows is None)

    def _states(self, rows: Tensor) -> Tensor:
        states = rows - self.null if self.config.relative_to_null else rows
        return self.w.norm(states) if self.config.apply_norm_first else states

    def _predict(self, states: Tensor, first: bool) -> Tensor:
        config, w = self.config, self.w
        residual = self.embed if config.use_embeds_for_residual_connection else states
        attended = self._attend(states, first)
        if config.use_full_attention:
            regular = config.use_regular_attention_residual_connection
            attended = attended + (residual if regular else states)
            if regular:
                residual = attended
        vicinity = self.vicinity(states)
        if config.squashed:
            x = attended + w.linear2(vicinity)
        else:
            x = w.linear2(torch.cat([attended, vicinity], dim=-1))
        if config.use_residual_connection:
            x = x + residual
        for norm, linear1, linear2 in w.mlps:
            made = linear2(w.act(linear1(norm(x))))
            x = x + made if config.use_residual_connection else made
        if w.final is not None:
            # rows before the first count as the first one here
            self.final_window = self.final_window or Window(config.vicinity, x[:, :, :1])
            x = x + w.final(_joined(self.embed, self.final_window(x)))
        return w.final_norm(x)

    def _attend(self, states: Tensor, first: bool) -> Tensor:
        config, wanted = self.config, states.shape[2]
        if first and config.embeds_in_attention:
            states = torch.cat([self.embed, states], dim=2)
        end = self.place + states.shape[2]
        states = states + self.w.position[:, :, self.place : end]
        self.place = end
        if not config.apply_norm_first:
            states = self.w.norm(states)
        return self.w.attention(states, self.cache, last=wanted)


def _joined(embed: Tensor | None, window: list[Tensor]) -> Tensor:
    """The embedding (``u b 1 e``, repeated for every row) and the window's rows, side by side."""
    if embed is None:
        return torch.cat(window, dim=-1)
    return torch.cat([embed.expand(*window[0].shape[:-1], -1), *window], dim=-1)


def _vicinity(config: VtConfig, w: Weights, embed: Tensor, zero: Tensor) -> Any:
    kind = (
        MlpVicinity
        if config.use_mlp_first_layer
        else IndividualVicinity
        if config.use_individual_first_layer
        else CombinedVicinity
    )
    return kind(config, w, embed, zero)


class CombinedVicinity:
    """One linear layer over embedding and window, activated; the embedding's share is computed once."""

    def __init__(self, config: VtConfig, w: Weights, embed: Tensor, zero: Tensor):
        self.act, self.linear = w.act, w.first["rows"]
        self.share = w.first["embed"](embed)
        self.window = Window(config.vicinity, zero)

    def __call__(self, states: Tensor) -> Tensor:
        return self.act(self.share + self.linear(torch.cat(self.window(states), dim=-1)))


class IndividualVicinity:
    """One linear layer for the embedding, one for every row of the window, side by side."""

    def __init__(self, config: VtConfig, w: Weights, embed: Tensor, zero: Tensor):
        self.config, self.w = config, w
        made = embed
        if config.first_embed_pre_layer_dim:
            made = w.act(w.first["linear_pre_embeds"](made))
        self.made_embed = w.first["linear1_embeds"](made)
        self.embed = embed.repeat(1, 1, 1, config.first_embed_layer_dim // config.dim)
        self.rows = Window(config.vicinity, zero)
        self.made_rows = Window(config.vicinity, w.first["linear1"](zero))

    def __call__(self, states: Tensor) -> Tensor:
        made = _joined(self.made_embed, self.made_rows(self.w.first["linear1"](states)))
        if self.config.first_layer_activation:
            made = self.w.act(made)
        if self.config.first_layer_residual_connection:
            made = made + _joined(self.embed, self.rows(states))
        return made


class MlpVicinity:
    """A residual MLP on the embedding and one on every row, or the same one on both."""

    def __init__(self, config: VtConfig, w: Weights, embed: Tensor, zero: Tensor):
        self.w = w
        embed_layers = "states" if config.use_same_mlp_first_layer else "embeds"
        self.embed = None if config.no_first_embed_layer else self._mlp(embed, embed_layers)
        self.window = Window(config.vicinity, self._mlp(zero, "states"))

    def _mlp(self, x: Tensor, which: str) -> Tensor:
        first = self.w.first
        if f"linear1_{which}1" not in first:
            return x
        return x + first[f"linear1_{which}2"](self.w.act(first[f"linear1_{which}1"](x)))

    def __call__(self, states: Tensor) -> Tensor:
        return _joined(self.embed, self.window(self._mlp(states, "states")))
