"""The recurrent families: LSTM models 1, 2 and 3 behind one recursion.

A unit sees only the row it made last; the embedding is its initial state and is added to its output, so all
terms of the embedding are computed once. Gate weights are joined to one product per step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .base import Deprojector
from .config import LstmConfig
from .lstm_cells import Model1, Model2, Model3
from .parts import Attention, Mlp


def _norm(config: LstmConfig, width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=config.layer_norm_eps)


class Lstm1Parameters(nn.Module):
    """Model 1: ``nn.LSTM`` (projected when wider than the rows), residual, optional attention and MLP."""

    def __init__(self, config: LstmConfig):
        super().__init__()
        dim, hidden = config.dim, config.lstm_hidden_size
        self.lstm = nn.LSTM(dim, hidden, proj_size=0 if hidden == dim else dim, batch_first=True)
        if config.use_context_0 and hidden != dim:
            self.context_proj = nn.Linear(dim, hidden)
        if config.use_out_scale:
            self.out_scale = nn.Parameter(torch.tensor(1.0))
        elif config.use_out_extended_proj:
            self.out_proj = nn.Linear(2 * dim, dim)
        elif config.use_out_proj:
            self.out_proj = nn.Linear(dim, dim)
        if config.use_out_norm:
            self.out_norm = _norm(config, dim)
        if config.use_extra:
            if config.use_extra_scale:
                self.extra_scale = nn.Parameter(torch.tensor(1.0))
            if config.use_extra_linear:
                self.embed_proj = nn.Linear(dim, dim)
            if config.use_extra_norm:
                self.embed_norm = _norm(config, dim)
        if config.use_attention:
            self.position_embedding = nn.Embedding(config.rows, dim)
            self.norm1 = _norm(config, dim)
            self.attn = Attention(dim)
        if config.use_mlp:
            self.norm2 = _norm(config, dim)
            self.mlp = Mlp(dim, config.intermediate_size)
        self.final_norm = _norm(config, dim)


class Lstm2Parameters(nn.Module):
    """Model 2: a cell with normalised state, the embedding added through ``embed_linear``."""

    def __init__(self, config: LstmConfig):
        super().__init__()
        dim, hidden = config.dim, config.lstm_hidden_size or config.dim
        if config.use_global_state_norm:
            self.global_state_norm = _norm(config, dim)
        self.lstm = nn.LSTMCell(dim, hidden)
        if config.use_c_norm:
            self.c_norm = _norm(config, hidden)
        if config.use_h_norm:
            self.h_norm = _norm(config, hidden)
        if config.lstm_hidden_size:
            self.lstm_in_linear = nn.Linear(dim, hidden)
        self.embed_linear = nn.Linear(dim, dim)
        self.lstm_linear = nn.Linear(hidden, dim)
        if config.mlp_intermediate_dim:
            self.mlp_norm = _norm(config, dim)
            self.mlp_fc1 = nn.Linear(dim, config.mlp_intermediate_dim)
            self.mlp_fc2 = nn.Linear(config.mlp_intermediate_dim, dim)
        self.final_norm = _norm(config, dim)


class Lstm3Layer(nn.Module):
    """One layer of model 3."""

    def __init__(self, config: LstmConfig, index: int):
        super().__init__()
        dim, hidden, near = config.dim, config.lstm_hidden_size or config.dim, config.vicinity_mode
        wide = config.lstm_hidden_size > 0 and not near
        states_proj = wide and config.states_proj and not config.out_proj
        if wide:
            self.h0_linear = nn.Linear(dim, hidden)
        if states_proj:
            self.states_linear = nn.Linear(dim, dim)
        inputs = 2 * dim if near else dim
        self.lstm = nn.LSTMCell(inputs, hidden)
        if config.use_x_norm:
            self.x_norm = _norm(config, inputs if config.combined_x_norm else dim)
        self.c_norm = _norm(config, hidden)
        self.h_norm = _norm(config, hidden)
        if near:
            self.vicinity_linear = nn.Linear(dim, dim)
        if config.out_proj:
            self.x_out_linear = nn.Linear(hidden, dim)
        self.lstm_linear = nn.Linear(dim if config.out_proj else hidden, dim)
        if config.adds_embed(index):
            self.embed_linear = nn.Linear(dim, dim)
        if config.additional_mlp and config.mlp_intermediate_dim:
            self.mlp_linear1 = nn.Linear(dim, config.mlp_intermediate_dim)
            self.mlp_linear2 = nn.Linear(config.mlp_intermediate_dim, dim)
        if config.use_mlp:
            self.mlp_linear = nn.Linear(dim * (3 if states_proj else 2), dim)


class Lstm3Parameters(nn.Module):
    """Model 3: whole blocks in layers, the embedding entering every one of them."""

    def __init__(self, config: LstmConfig):
        super().__init__()
        self.layers = nn.ModuleList([Lstm3Layer(config, k) for k in range(config.num_layers)])
        self.final_norm = _norm(config, config.dim)


class LstmDeprojector(Deprojector):
    """The recurrent families."""

    def __init__(self, config: LstmConfig):
        super().__init__(config)
        self.register_buffer("deprojection", torch.zeros(config.dim, config.projection_dim))
        self.register_buffer("sos_embed", torch.zeros(config.dim))
        kind = (
            Lstm3Parameters
            if config.use_model3
            else Lstm2Parameters
            if config.use_model2
            else Lstm1Parameters
        )
        self.models = nn.ModuleList([kind(config) for _ in range(config.ensemble_size)])

    def weights(self) -> Any:
        config = self.config
        kind = Model3 if config.use_model3 else Model2 if config.use_model2 else Model1
        return kind(list(self.models), config)

    def recursion(self, embeds: Tensor) -> "LstmRecursion":
        return LstmRecursion(self, embeds)


class LstmRecursion:
    """One run of a recurrent family."""

    def __init__(self, model: LstmDeprojector, embeds: Tensor):
        config: LstmConfig = model.config
        embed = embeds[None].expand(config.ensemble_size, -1, -1)  # u b d
        self.run = model.laid_out().begin(embed)
        if config.use_state_0:
            self.first = embed
        elif config.use_sos:
            self.first = model.sos_embed.expand_as(embed)
        else:
            self.first = torch.zeros_like(embed)

    def step(self, rows: Tensor | None) -> Tensor:
        if rows is None:
            return self.run(self.first)[:, :, None]
        if rows.shape[2] == 1:
            return self.run(rows[:, :, 0])[:, :, None]
        return torch.stack([self.run(row) for row in rows.unbind(2)], dim=2)
