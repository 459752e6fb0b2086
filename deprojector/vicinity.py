"""Family V: an MLP with batch norms over the embedding and the last ``vicinity`` rows, newest first."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .base import Deprojector
from .config import VicinityConfig
from .linear import Linear
from .parts import Window, activation, per_unit


class VicinityMlp(nn.Module):
    """The parameters of one MLP layer."""

    def __init__(self, config: VicinityConfig):
        super().__init__()
        self.norm = nn.BatchNorm1d(config.dim, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(config.dim * (1 + config.use_side_input), config.mlp_layer_dim)
        self.linear2 = nn.Linear(config.mlp_layer_dim, config.dim)


class VicinityDeprojector(Deprojector):
    """Family V; its batch norms always use the stored statistics."""

    def __init__(self, config: VicinityConfig):
        super().__init__(config)
        dim, states, embed = config.dim, config.first_layer_dim, config.first_embed_layer_dim
        self.register_buffer("deprojection", torch.zeros(dim, config.projection_dim))
        self.register_buffer("sos_embed", torch.zeros(dim))
        self.register_buffer("null_embed", torch.zeros(dim))
        if config.use_individual_first_layer:
            self.linear1_embeds = self._each(lambda: nn.Linear(dim, embed))
            self.linear1_states = self._each(lambda: nn.Linear(dim, states))
            width = embed + states * (1 if config.sum_after_first_activation else config.vicinity)
        else:
            self.linear1 = self._each(lambda: nn.Linear(dim * (1 + config.vicinity), states))
            width = states
        self.linear2 = self._each(lambda: nn.Linear(width, dim))
        self.mlp_layers = self._each(
            lambda: nn.ModuleList([VicinityMlp(config) for _ in range(config.num_mlp_layers)])
        )
        self.final_norm = self._each(lambda: nn.BatchNorm1d(dim, eps=config.layer_norm_eps))

    def _each(self, make: Any) -> nn.ModuleList:
        return nn.ModuleList([make() for _ in range(self.config.ensemble_size)])

    def weights(self) -> "Weights":
        names = ("linear1_embeds", "linear1_states", "linear1")
        units: Any = list(self.mlp_layers)
        return Weights(
            act=activation(self.config.activation),
            first={name: Linear.of(getattr(self, name)) for name in names if hasattr(self, name)},
            linear2=Linear.of(self.linear2),
            mlps=[
                (
                    StoredNorm([unit[k].norm for unit in units]),
                    Linear.of([unit[k].linear1 for unit in units]),
                    Linear.of([unit[k].linear2 for unit in units]),
                )
                for k in range(self.config.num_mlp_layers)
            ],
            final_norm=StoredNorm(self.final_norm),
        )

    def recursion(self, embeds: Tensor) -> "VicinityRecursion":
        return VicinityRecursion(self, embeds)


class StoredNorm:
    """BatchNorm with its stored statistics, as the scale and shift that it is: ``u ... d -> u ... d``."""

    def __init__(self, norms: Any):
        scales = [norm.weight * torch.rsqrt(norm.running_var + norm.eps) for norm in norms]
        shifts = [norm.bias - norm.running_mean * scale for norm, scale in zip(norms, scales, strict=True)]
        self.scale = per_unit(scales).view(len(scales), 1, 1, -1)
        self.shift = per_unit(shifts).view(len(shifts), 1, 1, -1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


class Weights(NamedTuple):
    """Family V's parameters, units stacked."""

    act: Any
    first: dict[str, Linear]
    linear2: Linear
    mlps: list[tuple[StoredNorm, Linear, Linear]]
    final_norm: StoredNorm


class VicinityRecursion:
    """One run of family V."""

    def __init__(self, model: VicinityDeprojector, embeds: Tensor):
        self.config = model.config
        self.null: Any = model.null_embed
        self.w: Weights = model.laid_out()
        embed = embeds[None, :, None].expand(self.config.ensemble_size, -1, -1, -1)
        self.embed = embed - self.null if self.config.relative_to_null else embed
        self.zero = torch.zeros_like(self.embed)
        self.window = Window(self.config.vicinity, self.zero)

    def step(self, rows: Tensor | None) -> Tensor:
        config, w = self.config, self.w
        if rows is None:
            state = self.zero
        else:
            state = rows - self.null if config.relative_to_null else rows
        near = self.window(state)
        embed = self.embed.expand_as(state)
        x = w.linear2(self._first(embed, near))
        if config.use_residual_connection:
            x = x + state
        for norm, linear1, linear2 in w.mlps:
            inputs = torch.cat([embed, norm(x)], dim=-1) if config.use_side_input else norm(x)
            made = linear2(w.act(linear1(inputs)))
            x = x + made if config.use_residual_connection else made
        return w.final_norm(x)

    def _first(self, embed: Tensor, near: list[Tensor]) -> Tensor:
        first, act = self.w.first, self.w.act
        if not self.config.use_individual_first_layer:
            return act(first["linear1"](torch.cat([embed, *near], dim=-1)))
        made = [act(first["linear1_states"](row)) for row in near]
        if self.config.sum_after_first_activation:
            made = [torch.stack(made).sum(0)]
        return torch.cat([act(first["linear1_embeds"](embed)), *made], dim=-1)
