"""The arithmetic of LSTM models 1, 2 and 3, one row of all units per call: ``u b d -> u b d``.

A model is laid out once (``ModelN(parameters, config)``) and begun for every batch (``begin(embed)``), which
computes all that depends on the embedding alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import LstmConfig
from .linear import Linear
from .parts import CausalAttention, KeyValues, Norm, activation, per_unit, positions

Run = Callable[[Tensor], Tensor]
State = tuple[Tensor, Tensor]


class Gates:
    """An LSTM cell of every unit: input and recurrent weights side by side, gates in the order i, f, o, g.

    ``shared`` trailing input columns belong to an input that stays the same for a whole run; their share of
    the gates is computed once (``base``).
    """

    def __init__(self, cells: Sequence[Any], suffix: str = "", shared: int = 0):
        ih = [_reordered(getattr(cell, "weight_ih" + suffix)) for cell in cells]
        hh = [_reordered(getattr(cell, "weight_hh" + suffix)) for cell in cells]
        biases = [
            _reordered(getattr(cell, "bias_ih" + suffix) + getattr(cell, "bias_hh" + suffix))
            for cell in cells
        ]
        varying = ih[0].shape[1] - shared
        self.bias = per_unit(biases)
        self.hidden = self.bias.shape[-1] // 4
        self.product = Linear([torch.cat([i[:, :varying], h], dim=1) for i, h in zip(ih, hh, strict=True)])
        self.constant = Linear([i[:, varying:].contiguous() for i in ih], biases) if shared else None

    def base(self, embed: Tensor) -> Tensor:
        """The constant part of the gates, ``u b 4h``."""
        if self.constant is not None:
            return self.constant(embed)
        bias = self.bias if self.bias.dim() == 1 else self.bias[:, None]
        return bias.expand(*embed.shape[:-1], -1).contiguous()

    def __call__(self, base: Tensor, x: Tensor, state: State) -> State:
        hidden, context = state
        gates = self.product.added_to(base, torch.cat([x, hidden], dim=-1))
        sigmoids, candidate = gates.split((3 * self.hidden, self.hidden), dim=-1)
        enter, keep, leave = sigmoids.sigmoid().chunk(3, dim=-1)
        context = torch.addcmul(keep * context, enter, candidate.tanh())
        return leave * context.tanh(), context


def _reordered(gates: Tensor) -> Tensor:
    i, f, g, o = gates.chunk(4)
    return torch.cat([i, f, o, g])


def _zeros(embed: Tensor, width: int) -> Tensor:
    return embed.new_zeros(*embed.shape[:-1], width)


def _norms(parts: Sequence[Any], name: str) -> Any:
    """The units' norm of that name; None where the flags leave it out."""
    return Norm([getattr(part, name) for part in parts]) if hasattr(parts[0], name) else None


def _linears(parts: Sequence[Any], name: str) -> Any:
    """The units' linear layer of that name; None where the flags leave it out."""
    return Linear.of([getattr(part, name) for part in parts]) if hasattr(parts[0], name) else None


class Model1:
    """``y = LSTM(x)`` in one of three output forms, ``+ x``, ``+ embed``, attention, MLP, final norm."""

    def __init__(self, units: Sequence[Any], config: LstmConfig):
        self.config = config
        self.gates = Gates([unit.lstm for unit in units], "_l0")
        lowered = config.lstm_hidden_size != config.dim
        self.lower = Linear([unit.lstm.weight_hr_l0 for unit in units]) if lowered else None
        self.context_proj = _linears(units, "context_proj")
        self.out_scale = self._scale(units, "out_scale")
        self.out_proj = _linears(units, "out_proj")
        self.out_norm = _norms(units, "out_norm")
        self.extra_scale = self._scale(units, "extra_scale")
        self.embed_proj = _linears(units, "embed_proj")
        self.embed_norm = _norms(units, "embed_norm")
        if config.use_attention:
            self.position = positions([unit.position_embedding for unit in units])
            self.norm1 = Norm([unit.norm1 for unit in units])
            self.attention = CausalAttention([unit.attn for unit in units], config.num_attention_heads)
        if config.use_mlp:
            self.norm2 = Norm([unit.norm2 for unit in units])
            self.fc1 = Linear.of([unit.mlp.fc1 for unit in units])
            self.fc2 = Linear.of([unit.mlp.fc2 for unit in units])
            self.act = activation(config.hidden_act)
        self.final_norm = Norm([unit.final_norm for unit in units])

    @staticmethod
    def _scale(units: Sequence[Any], name: str) -> Tensor | None:
        if not hasattr(units[0], name):
            return None
        return torch.stack([getattr(unit, name) for unit in units])[:, None, None]

    def begin(self, embed: Tensor) -> Run:
        config = self.config
        hidden = embed if config.use_hidden_0 else torch.zeros_like(embed)
        if config.use_context_0:
            context = self.context_proj(embed) if self.context_proj else embed
        else:
            context = _zeros(embed, config.lstm_hidden_size)
        state = [(hidden, context)]
        base = self.gates.base(embed)
        extra = self._extra(embed) if config.use_extra else None
        cache = KeyValues(config.rows)
        place = [0]

        def run(x: Tensor) -> Tensor:
            y, context = self.gates(base, x, state[0])
            if self.lower is not None:
                y = self.lower(y)
            state[0] = y, context
            y = self._shaped(y, x) + x
            if extra is not None:
                y = extra + (y if self.extra_scale is None else self.extra_scale * y)
            if config.use_attention:
                placed = y[:, :, None] + self.position[:, :, place[0] : place[0] + 1]
                place[0] += 1
                y = y + self.attention(self.norm1(placed), cache, last=1)[:, :, 0]
            if config.use_mlp:
                y = y + self.fc2(self.act(self.fc1(self.norm2(y))))
            return self.final_norm(y)

        return run

    def _shaped(self, y: Tensor, x: Tensor) -> Tensor:
        if self.out_scale is not None:
            y = self.out_scale * y
        elif self.out_proj is not None:
            y = self.out_proj(torch.cat([y, x], dim=-1) if self.config.use_out_extended_proj else y)
        return self.out_norm(y) if self.out_norm else y

    def _extra(self, embed: Tensor) -> Tensor:
        extra = embed + self.embed_proj(embed) if self.embed_proj else embed
        return self.embed_norm(extra) if self.embed_norm else extra


class Model2:
    """A cell whose state may be normalised and recurs so; ``+ x``, ``+ embed``, final norm."""

    def __init__(self, units: Sequence[Any], config: LstmConfig):
        self.config = config
        self.state_norm = _norms(units, "global_state_norm")
        self.gates = Gates([unit.lstm for unit in units])
        self.c_norm, self.h_norm = _norms(units, "c_norm"), _norms(units, "h_norm")
        self.lstm_in = _linears(units, "lstm_in_linear")
        self.embed_linear = Linear.of([unit.embed_linear for unit in units])
        self.out = Linear.of([unit.lstm_linear for unit in units], bias=False)
        self.out_bias = per_unit([unit.lstm_linear.bias for unit in units])
        self.mlp_norm = _norms(units, "mlp_norm")
        self.mlp1, self.mlp2 = _linears(units, "mlp_fc1"), _linears(units, "mlp_fc2")
        self.act = activation(config.hidden_act)
        self.final_norm = Norm([unit.final_norm for unit in units])

    def begin(self, embed: Tensor) -> Run:
        hidden = self.lstm_in(embed) if self.lstm_in else embed
        state = [(hidden, _zeros(embed, self.gates.hidden))]
        base = self.gates.base(embed)
        added = self.embed_linear(embed) + embed + _aligned(self.out_bias)

        def run(x: Tensor) -> Tensor:
            x = self.state_norm(x) if self.state_norm else x
            hidden, context = self.gates(base, x, state[0])
            context = self.c_norm(context) if self.c_norm else context
            hidden = self.h_norm(hidden) if self.h_norm else hidden
            made, residual, again = self._residuals(hidden, x)
            state[0] = again, context
            y = self.out.added_to(added, made) + residual
            if self.mlp_norm:
                y = y + self.mlp2(self.act(self.mlp1(self.mlp_norm(y))))
            return self.final_norm(y)

        return run

    def _residuals(self, hidden: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into the output layer, what is added to it, and what recurs."""
        keeps = self.config.lstm_hidden_with_residual
        if self.lstm_in:
            return hidden, x, hidden + self.lstm_in(x) if keeps else hidden
        made = hidden + x
        return made, made, made if keeps else hidden


class Model3:
    """Layers of ``Model3Layer``, each fed with the one before, then the final norm."""

    def __init__(self, units: Sequence[Any], config: LstmConfig):
        self.layers = [
            Model3Layer([unit.layers[k] for unit in units], config) for k in range(config.num_layers)
        ]
        self.final_norm = Norm([unit.final_norm for unit in units])

    def begin(self, embed: Tensor) -> Run:
        layers = [layer.begin(embed) for layer in self.layers]

        def run(x: Tensor) -> Tensor:
            for layer in layers:
                x = layer(x)
            return self.final_norm(x)

        return run


class Model3Layer:
    """Normalised input, cell with normalised state, residuals by flag, output layers, ``+ embed``."""

    def __init__(self, units: Sequence[Any], config: LstmConfig):
        self.config = config
        near = config.vicinity_mode
        self.x_norm = _norms(units, "x_norm")
        # behind a norm over input and embedding together nothing stays constant
        self.joint_norm = near and config.combined_x_norm and config.use_x_norm
        self.gates = Gates([u.lstm for u in units], shared=config.dim if near and not self.joint_norm else 0)
        self.c_norm = Norm([unit.c_norm for unit in units])
        self.h_norm = Norm([unit.h_norm for unit in units])
        self.h0_linear = _linears(units, "h0_linear")
        self.x_out = _linears(units, "x_out_linear")
        self.embed_linear = _linears(units, "embed_linear")
        self.act = activation(config.hidden_act)
        self.mlp1, self.mlp2 = _linears(units, "mlp_linear1"), _linears(units, "mlp_linear2")

        beside = "vicinity_linear" if near else "states_linear"
        self.takes_x = hasattr(units[0], beside)
        self.long = config.lstm_hidden_size > 0 and not near and not config.out_proj
        self.square = not near or config.lstm_hidden_size == config.dim
        names = ["lstm_linear", beside] if self.takes_x else ["lstm_linear"]
        if config.use_mlp:
            self.parts = [Linear.of([getattr(unit, name) for unit in units]) for name in names]
            mlp = [unit.mlp_linear for unit in units]
            self.mlp_embed = Linear.of(mlp, inputs=slice(None, config.dim))
            self.out = Linear.of(mlp, inputs=slice(config.dim, None), bias=False)
        else:
            layers = [[getattr(unit, name) for name in names] for unit in units]
            self.out = Linear([torch.cat([layer.weight for layer in unit], dim=1) for unit in layers])
            self.out_bias = per_unit([torch.stack([layer.bias for layer in unit]).sum(0) for unit in layers])

    def begin(self, embed: Tensor) -> Run:
        config = self.config
        if config.vicinity_mode:
            first = _zeros(embed, self.gates.hidden)
        else:
            first = self.h0_linear(embed) if self.h0_linear else embed
        state = [(first, _zeros(embed, self.gates.hidden))]
        base = self.gates.base(embed)
        added = self._added(embed)

        def run(x: Tensor) -> Tensor:
            hidden, context = self.gates(base, self._input(x, embed), state[0])
            context, hidden = self.c_norm(context), self.h_norm(hidden)
            if config.x_residual:
                hidden = hidden + x
            if config.h0_residual:
                hidden = hidden + first
            out = self.x_out(hidden) if self.x_out else hidden
            state[0] = hidden + first if config.h0_excl_residual else hidden, context
            if config.x_out_residual:
                out = out + x
            return self._output(out, x, added)

        return run

    def _input(self, x: Tensor, embed: Tensor) -> Tensor:
        if self.joint_norm:
            return self.x_norm(torch.cat([x, embed], dim=-1))
        return self.x_norm(x) if self.x_norm else x

    def _added(self, embed: Tensor) -> Tensor:
        """What the embedding alone adds to the output, biases included."""
        if self.config.use_mlp:
            return self.mlp_embed(self.act(embed + self.embed_linear(embed)))
        bias = _aligned(self.out_bias)
        if self.embed_linear:
            return self.embed_linear(embed) + embed + bias
        return bias.expand_as(embed)

    def _output(self, out: Tensor, x: Tensor, added: Tensor) -> Tensor:
        if self.config.use_mlp:
            inputs = (out, x)
            parts = [part(given) for part, given in zip(self.parts, inputs, strict=False)]
            y = self.out.added_to(added, self.act(torch.cat(parts, dim=-1)))
            return y + (x if self.long else out)
        y = self.out.added_to(added, torch.cat([out, x], dim=-1) if self.takes_x else out)
        if self.config.vicinity_mode:
            y = y + x
            if self.square:
                y = y + out
        elif not self.takes_x:
            y = y + (x if self.long else out)
        if self.mlp1:
            y = y + self.mlp2(self.act(self.mlp1(y)))
        return y


def _aligned(bias: Tensor) -> Tensor:
    """A bias per unit (``d`` or ``u d``) so that it adds to ``u b d``."""
    return bias if bias.dim() == 1 else bias[:, None]
