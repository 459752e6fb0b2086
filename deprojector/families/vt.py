"""Family VT: causal attention beside a vicinity layer that sees the embedding and the last rows.

Sequence row ``j`` stands for hidden state ``j`` (row 0 is zero) and predicts hidden state ``j + 1``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base import ClipConfig, Deprojector, Step, Unit
from ..errors import DeprojectorError
from ..layers import Attention, KeyValues, Linear, NormedMlp, Window, activation, beside


@dataclass(frozen=True)
class VtConfig(ClipConfig):
    """The fields of family VT."""

    model_type: ClassVar[str] = "clip_text_deprojector_vt_model"

    squashed: bool = False
    relative_to_null: bool = True
    apply_norm_first: bool = False
    apply_norm_to_all: bool = False
    vicinity: int = 2
    use_mlp_first_layer: bool = False
    use_same_mlp_first_layer: bool = False
    use_individual_first_layer: bool = False
    no_first_embed_layer: bool = False
    first_layer_activation: bool = False
    first_layer_residual_connection: bool = False
    first_layer_dim: int = 768
    first_embed_pre_layer_dim: int = 0
    first_embed_layer_dim: int = 768
    first_embed_layer_dropout: float = 0.0
    require_grad_in_attention: bool = False
    use_full_attention: bool = False
    use_regular_attention_residual_connection: bool = False
    embeds_in_attention: bool = False
    num_mlp_layers: int = 1
    mlp_layer_dim: int = 3072
    mlp_dropout: float = 0.0
    use_residual_connection: bool = True
    use_embeds_for_residual_connection: bool = False
    use_final_vicinity: bool = False

    def __post_init__(self) -> None:
        if self.squashed and self.use_full_attention:
            raise DeprojectorError("squashed and use_full_attention exclude each other. Set one to false.")
        regular = self.use_full_attention and self.use_regular_attention_residual_connection
        if regular and not self.use_residual_connection:
            raise DeprojectorError(
                "use_regular_attention_residual_connection needs use_residual_connection. Set it to true."
            )
        individual = self.use_individual_first_layer and not self.use_mlp_first_layer
        fits = self.first_layer_dim == self.dim and self.first_embed_layer_dim % self.dim == 0
        if individual and self.first_layer_residual_connection and not fits:
            raise DeprojectorError(
                f"first_layer_residual_connection needs first_layer_dim {self.dim} and "
                f"first_embed_layer_dim a multiple of it. config.json has {self.first_layer_dim} and "
                f"{self.first_embed_layer_dim}."
            )
        if self.use_final_vicinity and self.vicinity_dim != self.dim * (1 + self.vicinity):
            raise DeprojectorError(
                f"use_final_vicinity needs a first layer of {self.dim * (1 + self.vicinity)} outputs "
                f"(hidden_size * (1 + vicinity)). first_layer_dim and first_embed_layer_dim give "
                f"{self.vicinity_dim}."
            )

    @property
    def vicinity_dim(self) -> int:
        """Width of the vicinity features that go into ``linear2``."""
        if self.use_mlp_first_layer:
            return self.dim * (self.vicinity + (not self.no_first_embed_layer))
        if self.use_individual_first_layer:
            return self.first_embed_layer_dim + self.first_layer_dim * self.vicinity
        return self.first_layer_dim


class VtUnit(Unit):
    """One unit of family VT."""

    def __init__(self, config: VtConfig):
        super().__init__(config)
        dim, eps = config.dim, config.layer_norm_eps
        self.act = activation(config.hidden_act)
        self.position_embedding = nn.Embedding(config.rows - (not config.embeds_in_attention), dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.self_attn = Attention(dim, config.num_attention_heads)
        self._make_first_layers(config, dim, config.first_layer_dim, config.first_embed_layer_dim)
        if config.squashed:
            self.linear2 = Linear(config.vicinity_dim, dim, bias=False)
        else:
            self.linear2 = Linear(config.vicinity_dim + dim, dim)
        self.mlp_layers = nn.ModuleList(
            [
                NormedMlp(dim, config.mlp_layer_dim, config.hidden_act, eps)
                for _ in range(config.num_mlp_layers)
            ]
        )
        if config.use_final_vicinity:
            self.final_linear = Linear(config.vicinity_dim, dim, bias=False)
        self.final_norm = nn.LayerNorm(dim, eps=eps)

    def _make_first_layers(self, config: VtConfig, dim: int, states: int, embed: int) -> None:
        if config.use_mlp_first_layer:
            if embed and not config.no_first_embed_layer and not config.use_same_mlp_first_layer:
                self.linear1_embeds1, self.linear1_embeds2 = Linear(dim, embed), Linear(embed, dim)
            if states:
                self.linear1_states1, self.linear1_states2 = Linear(dim, states), Linear(states, dim)
        elif config.use_individual_first_layer:
            before = config.first_embed_pre_layer_dim
            if before:
                self.linear_pre_embeds = Linear(dim, before)
            self.linear1_embeds, self.linear1 = Linear(before or dim, embed), Linear(dim, states)
        else:
            self.linear1 = Linear(dim * (1 + config.vicinity), states)

    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        config = self.config
        embed = embed[:, None]
        if config.relative_to_null:
            embed = embed - null
        if config.apply_norm_first and config.apply_norm_to_all:
            embed = self.norm(embed)
        zero = torch.zeros_like(embed)
        attend, vicinity = self._attention(embed), self._vicinity(embed, zero)
        final_window: Window | None = None

        def step(rows: Tensor | None) -> Tensor:
            nonlocal final_window
            states = zero
            if rows is not None:
                states = rows - null if config.relative_to_null else rows
                states = self.norm(states) if config.apply_norm_first else states
            x = self._joined(embed, states, attend(states, rows is None), vicinity(states))
            for layer in self.mlp_layers:
                x = x + layer(x) if config.use_residual_connection else layer(x)
            if config.use_final_vicinity:
                # rows before the first count as the first one here
                final_window = final_window or Window(config.vicinity, x[:, :1])
                x = x + self.final_linear(beside(embed, final_window(x)))
            return self.final_norm(x)

        return step

    def _joined(self, embed: Tensor, states: Tensor, attended: Tensor, vicinity: Tensor) -> Tensor:
        """Attention and vicinity as one, with their residuals."""
        config = self.config
        residual = embed if config.use_embeds_for_residual_connection else states
        if config.use_full_attention:
            regular = config.use_regular_attention_residual_connection
            attended = attended + (residual if regular else states)
            if regular:
                residual = attended
        if config.squashed:
            x = attended + self.linear2(vicinity)
        else:
            x = self.linear2(torch.cat([attended, vicinity], dim=-1))
        return x + residual if config.use_residual_connection else x

    def _attention(self, embed: Tensor) -> Callable[[Tensor, bool], Tensor]:
        config, position = self.config, self.position_embedding.weight
        cache, place = KeyValues(config.rows), 0

        def attend(states: Tensor, first: bool) -> Tensor:
            nonlocal place
            wanted = states.shape[1]
            if first and config.embeds_in_attention:
                states = torch.cat([embed, states], dim=1)
            end = place + states.shape[1]
            states, place = states + position[place:end], end
            return self.self_attn(states if config.apply_norm_first else self.norm(states), cache, wanted)

        return attend

    def _vicinity(self, embed: Tensor, zero: Tensor) -> Callable[[Tensor], Tensor]:
        config = self.config
        if config.use_mlp_first_layer:
            return self._mlp_vicinity(embed, zero)
        if config.use_individual_first_layer:
            return self._individual_vicinity(embed, zero)
        # one layer over the embedding and the window; what the embedding adds is computed once
        constant = self.linear1.part(embed, 0) + self.linear1.bias
        window = Window(config.vicinity, zero)
        return lambda states: self.act(
            constant + self.linear1.part(torch.cat(window(states), -1), config.dim)
        )

    def _individual_vicinity(self, embed: Tensor, zero: Tensor) -> Callable[[Tensor], Tensor]:
        """One layer for the embedding, one for every row of the window, side by side."""
        config = self.config
        made = self.act(self.linear_pre_embeds(embed)) if config.first_embed_pre_layer_dim else embed
        made = self.linear1_embeds(made)
        wide = embed.repeat(1, 1, config.first_embed_layer_dim // config.dim)
        window, made_window = Window(config.vicinity, zero), Window(config.vicinity, self.linear1(zero))

        def vicinity(states: Tensor) -> Tensor:
            result = beside(made, made_window(self.linear1(states)))
            if config.first_layer_activation:
                result = self.act(result)
            if config.first_layer_residual_connection:
                result = result + beside(wide, window(states))
            return result

        return vicinity

    def _mlp_vicinity(self, embed: Tensor, zero: Tensor) -> Callable[[Tensor], Tensor]:
        """A residual MLP on the embedding and one on every row, or the same one on both."""
        config = self.config

        def mlp(x: Tensor, which: str) -> Tensor:
            if not hasattr(self, f"linear1_{which}1"):
                return x
            first, second = getattr(self, f"linear1_{which}1"), getattr(self, f"linear1_{which}2")
            return x + second(self.act(first(x)))

        made = mlp(embed, "states" if config.use_same_mlp_first_layer else "embeds")
        window = Window(config.vicinity, mlp(zero, "states"))

        def vicinity(states: Tensor) -> Tensor:
            near = window(mlp(states, "states"))
            return torch.cat(near, dim=-1) if config.no_first_embed_layer else beside(made, near)

        return vicinity


class VtDeprojector(Deprojector):
    """Family VT."""

    config_class = VtConfig
    unit_class = VtUnit
    sign = "self_attn.0."
    keeps_null = True
    presets = {
        "VT": lambda width: dict(first_layer_dim=width, first_embed_layer_dim=width, mlp_layer_dim=4 * width)
    }
    starts_from = {
        "self_attn.": "text_model.encoder.layers.{last}.self_attn.",
        "norm.": "text_model.encoder.layers.{last}.layer_norm1.",
        "position_embedding.": "text_model.embeddings.position_embedding.",
        "final_norm.": "text_model.final_layer_norm.",
    }

    def published(self, key: str, unit: int) -> str:
        part, _, rest = key.partition(".")
        return f"{part}.{unit}.{rest}"
