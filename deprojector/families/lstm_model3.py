"""LSTM model 3: whole blocks in layers, the embedding entering every one of them."""

from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Linear, activation, lstm_cell
from .lstm_config import LstmConfig, LstmUnit, Row, norm


class Model3(LstmUnit):
    """Layers of ``Layer3``, each fed with the one before, then the final norm."""

    def __init__(self, config: LstmConfig):
        super().__init__(config)
        self.layers: Any = nn.ModuleList([Layer3(config, k) for k in range(config.num_layers)])
        self.final_norm = norm(config, config.dim)

    def run(self, embed: Tensor) -> Row:
        layers = [layer.begin(embed) for layer in self.layers]

        def row(x: Tensor) -> Tensor:
            for layer in layers:
                x = layer(x)
            return self.final_norm(x)

        return row


class Layer3(nn.Module):
    """Normalised input, cell with normalised state, residuals by flag, output layers, ``+ embed``."""

    def __init__(self, config: LstmConfig, index: int):
        super().__init__()
        self.config = config
        dim, hidden, near = config.dim, config.hidden, config.vicinity_mode
        wide = config.lstm_hidden_size > 0 and not near
        states_proj = wide and config.states_proj and not config.out_proj
        # what is added to the output besides the LSTM's own: x itself, or the output where widths allow it
        self.long = wide and not config.out_proj and not states_proj
        if wide:
            self.h0_linear = Linear(dim, hidden)
        if states_proj:
            self.states_linear = Linear(dim, dim)
        inputs = 2 * dim if near else dim
        self.joint_norm = near and config.combined_x_norm and config.use_x_norm
        self.lstm = nn.LSTMCell(inputs, hidden)
        self.x_norm = norm(config, inputs if config.combined_x_norm else dim, config.use_x_norm)
        self.c_norm = norm(config, hidden)
        self.h_norm = norm(config, hidden)
        if near:
            self.vicinity_linear = Linear(dim, dim)
        if config.out_proj:
            self.x_out_linear = Linear(hidden, dim)
        self.lstm_linear = Linear(dim if config.out_proj else hidden, dim)
        if config.adds_embed(index):
            self.embed_linear = Linear(dim, dim)
        self.has_mlp = bool(config.additional_mlp and config.mlp_intermediate_dim)
        if self.has_mlp:
            self.mlp_linear1 = Linear(dim, config.mlp_intermediate_dim)
            self.mlp_linear2 = Linear(config.mlp_intermediate_dim, dim)
        if config.use_mlp:
            self.mlp_linear = Linear(dim * (3 if states_proj else 2), dim)
        self.act = activation(config.hidden_act)

    def begin(self, embed: Tensor) -> Row:
        config = self.config
        first = embed.new_zeros(len(embed), config.hidden)
        context = torch.zeros_like(first)
        if not config.vicinity_mode:
            first = self.h0_linear(embed) if config.lstm_hidden_size else embed
        hidden, base = first, None
        if config.vicinity_mode and not self.joint_norm:
            # the embedding's share of the gates is the same in every step
            base = embed @ self.lstm.weight_ih[:, config.dim :].t()
        added = self._added(embed)

        def row(x: Tensor) -> Tensor:
            nonlocal hidden, context
            inputs = self.x_norm(torch.cat([x, embed], dim=-1) if self.joint_norm else x)
            hidden, context = lstm_cell(inputs, hidden, context, self.lstm, base=base)
            hidden, context = self.h_norm(hidden), self.c_norm(context)
            if config.x_residual:
                hidden = hidden + x
            if config.h0_residual:
                hidden = hidden + first
            out = self.x_out_linear(hidden) if config.out_proj else hidden
            if config.h0_excl_residual:
                hidden = hidden + first
            if config.x_out_residual:
                out = out + x
            return self._output(out, x, added)

        return row

    def _added(self, embed: Tensor) -> Tensor | float:
        """What the embedding alone adds to the output."""
        if not hasattr(self, "embed_linear"):
            return 0.0
        added = self.embed_linear(embed) + embed
        if self.config.use_mlp:
            return self.mlp_linear.part(self.act(added), 0) + self.mlp_linear.bias
        return added

    def _output(self, out: Tensor, x: Tensor, added: Tensor | float) -> Tensor:
        config, states = self.config, hasattr(self, "states_linear")
        y = self.lstm_linear(out)
        if config.use_mlp:
            inputs = torch.cat([y, self.states_linear(x)], dim=-1) if states else y
            y = self.mlp_linear.part(self.act(inputs), config.dim)
            return y + added + (x if self.long or states else out)
        if config.vicinity_mode:
            y = y + self.vicinity_linear(x) + x
            if config.hidden == config.dim:
                y = y + out
        elif states:
            y = y + self.states_linear(x)
        else:
            y = y + (x if self.long else out)
        y = y + added
        return y + self.mlp_linear2(self.act(self.mlp_linear1(y))) if self.has_mlp else y
