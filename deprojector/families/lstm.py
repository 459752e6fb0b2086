"""The LSTM family: models 1, 2 and 3.

A unit sees only the row it made last; the embedding is its initial state and is added to its output, so all
terms of the embedding are computed once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Deprojector
from ..layers import Attention, KeyValues, Linear, Mlp, activation, lstm_cell
from .lstm_config import LstmConfig, LstmUnit, Row, norm
from .lstm_model3 import Model3


class Model1(LstmUnit):
    """``y = LSTM(x)`` in one of three output forms, ``+ x``, ``+ embed``, attention, MLP, final norm."""

    def __init__(self, config: LstmConfig):
        super().__init__(config)
        dim, hidden = config.dim, config.hidden
        self.lstm: Any = nn.LSTM(dim, hidden, proj_size=0 if hidden == dim else dim, batch_first=True)
        if config.use_context_0 and hidden != dim:
            self.context_proj = Linear(dim, hidden)
        if config.use_out_scale:
            self.out_scale = nn.Parameter(torch.tensor(1.0))
        elif config.use_out_extended_proj:
            self.out_proj = Linear(2 * dim, dim)
        elif config.use_out_proj:
            self.out_proj = Linear(dim, dim)
        self.out_norm = norm(config, dim, config.use_out_norm)
        if config.use_extra:
            if config.use_extra_scale:
                self.extra_scale = nn.Parameter(torch.tensor(1.0))
            if config.use_extra_linear:
                self.embed_proj = Linear(dim, dim)
            self.embed_norm = norm(config, dim, config.use_extra_norm)
        if config.use_attention:
            self.position_embedding = nn.Embedding(config.rows, dim)
            self.norm1 = norm(config, dim)
            self.attn = Attention(dim, config.num_attention_heads)
        if config.use_mlp:
            self.norm2 = norm(config, dim)
            self.mlp = Mlp(dim, config.intermediate_size, config.hidden_act)
        self.final_norm = norm(config, dim)

    def run(self, embed: Tensor) -> Row:
        config = self.config
        hidden = embed if config.use_hidden_0 else torch.zeros_like(embed)
        context = embed.new_zeros(len(embed), config.hidden)
        if config.use_context_0:
            context = self.context_proj(embed) if hasattr(self, "context_proj") else embed
        extra = self._extra(embed) if config.use_extra else None
        cache, place = KeyValues(config.rows), 0

        def row(x: Tensor) -> Tensor:
            nonlocal hidden, context, place
            hidden, context = lstm_cell(x, hidden, context, self.lstm, "_l0")
            if config.hidden != config.dim:
                hidden = hidden @ self.lstm.weight_hr_l0.t()
            y = self.out_norm(self._output(hidden, x)) + x
            if extra is not None:
                y = extra + (self.extra_scale * y if config.use_extra_scale else y)
            if config.use_attention:
                placed = (y + self.position_embedding.weight[place])[:, None]
                y = y + self.attn(self.norm1(placed), cache, 1)[:, 0]
                place += 1
            if config.use_mlp:
                y = y + self.mlp(self.norm2(y))
            return self.final_norm(y)

        return row

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        if self.config.use_out_scale:
            return self.out_scale * y
        if self.config.use_out_extended_proj:
            return self.out_proj(torch.cat([y, x], dim=-1))
        return self.out_proj(y) if self.config.use_out_proj else y

    def _extra(self, embed: Tensor) -> Tensor:
        return self.embed_norm(embed + self.embed_proj(embed) if self.config.use_extra_linear else embed)


class Model2(LstmUnit):
    """A cell whose state may be normalised and recurs so; ``+ x``, ``+ embed``, final norm."""

    def __init__(self, config: LstmConfig):
        super().__init__(config)
        dim, hidden = config.dim, config.hidden
        self.global_state_norm = norm(config, dim, config.use_global_state_norm)
        self.lstm = nn.LSTMCell(dim, hidden)
        self.c_norm = norm(config, hidden, config.use_c_norm)
        self.h_norm = norm(config, hidden, config.use_h_norm)
        if config.lstm_hidden_size:
            self.lstm_in_linear = Linear(dim, hidden)
        self.embed_linear = Linear(dim, dim)
        self.lstm_linear = Linear(hidden, dim)
        if config.mlp_intermediate_dim:
            self.mlp_norm = norm(config, dim)
            self.mlp_fc1 = Linear(dim, config.mlp_intermediate_dim)
            self.mlp_fc2 = Linear(config.mlp_intermediate_dim, dim)
        self.act = activation(config.hidden_act)
        self.final_norm = norm(config, dim)

    def run(self, embed: Tensor) -> Row:
        config = self.config
        keeps, wide = config.lstm_hidden_with_residual, config.lstm_hidden_size > 0
        hidden = self.lstm_in_linear(embed) if wide else embed
        context = embed.new_zeros(len(embed), config.hidden)
        added = self.embed_linear(embed) + embed

        def row(x: Tensor) -> Tensor:
            nonlocal hidden, context
            x = self.global_state_norm(x)
            made, context = lstm_cell(x, hidden, context, self.lstm)
            made, context = self.h_norm(made), self.c_norm(context)
            hidden, residual = made, x
            if wide:
                hidden = made + self.lstm_in_linear(x) if keeps else made
            else:
                residual = made = made + x
                hidden = made if keeps else hidden
            y = self.lstm_linear(made) + residual + added
            if config.mlp_intermediate_dim:
                y = y + self.mlp_fc2(self.act(self.mlp_fc1(self.mlp_norm(y))))
            return self.final_norm(y)

        return row


def _unit(config: LstmConfig) -> LstmUnit:
    kind = Model3 if config.use_model3 else Model2 if config.use_model2 else Model1
    return kind(config)


KEPT = dict(x_residual=False, h0_residual=True, x_out_residual=True)
WIDE = dict(x_residual=False, h0_residual=True, states_proj=True)


def _layers(count: int, **flags: Any) -> Callable[[int], dict[str, Any]]:
    return lambda _: dict(use_model3=True, num_layers=count, **flags)


def _wide(count: int, eighths: int) -> Callable[[int], dict[str, Any]]:
    return lambda width: _layers(count, lstm_hidden_size=width * eighths // 8, **WIDE)(width)


class LstmDeprojector(Deprojector):
    """The LSTM family."""

    config_class = LstmConfig
    unit_class = staticmethod(_unit)
    sign = ("models.0.lstm.", "models.0.layers.0.lstm.")
    presets = {
        "LSTM 1": lambda width: dict(lstm_hidden_size=width, use_extra=True, use_out_proj=True),
        "LSTM 2": lambda _: dict(use_model2=True),
        "LSTM 3, initial, 1 layer": _layers(1),
        "LSTM 3, initial, 2 layers": _layers(2),
        "LSTM 3, initial, 3 layers": _layers(3),
        "LSTM 3, information kept, 1 layer": _layers(1, **KEPT),
        "LSTM 3, information kept, 2 layers": _layers(2, **KEPT),
        "LSTM 3, information kept, 3 layers": _layers(3, **KEPT),
        "LSTM 3, wide 1x, 1 layer": _wide(1, 8),
        "LSTM 3, wide 1x, 2 layers": _wide(2, 8),
        "LSTM 3, wide 1.25x, 1 layer": _wide(1, 10),
        "LSTM 3, wide 1.25x, 2 layers": _wide(2, 10),
        "LSTM 3, wide 1.5x, 1 layer": _wide(1, 12),
    }
    starts_from = {"final_norm.": "text_model.final_layer_norm."}

    def __init__(self, config: LstmConfig):
        super().__init__(config)
        if config.use_model2 or config.use_model3:
            self.frozen = ("final_norm.",)
