"""Family VRNN: model 1 makes the first rows from the embedding, model 2 all others from the last few."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Deprojector
from .config import VrnnConfig
from .errors import DeprojectorError
from .parts import activation

# Every layer below maps ``b inputs d -> b outputs d``: some rows to some rows.


class JoinedLinear(nn.Module):
    """One linear layer from all rows to all rows; ``split`` with as many rows out as in: one per row."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, split: bool):
        super().__init__()
        dim = config.dim
        self.split = split and inputs == outputs
        if self.split:
            self.fc: Any = nn.ModuleList([nn.Linear(dim, dim) for _ in range(inputs)])
        else:
            self.fc = nn.Linear(dim * inputs, dim * outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            return torch.stack([layer(row) for layer, row in zip(self.fc, x.unbind(1), strict=True)], dim=1)
        return self.fc(x.flatten(1)).view(len(x), -1, x.shape[-1])


class LowRank(nn.Module):
    """Every row to ``f_size`` features, all features to all rows; between them ``between``."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, features: int, widen: int = 1):
        super().__init__()
        self.fc1 = nn.ModuleList([nn.Linear(config.dim, features * widen) for _ in range(inputs)])
        self.fc2 = nn.Linear(features * inputs, config.dim * outputs)

    def between(self, features: Tensor) -> Tensor:
        """What happens to one row's features (``b f``)."""
        return features

    def forward(self, x: Tensor) -> Tensor:
        features = [self.between(layer(row)) for layer, row in zip(self.fc1, x.unbind(1), strict=True)]
        return self.fc2(torch.cat(features, dim=-1)).view(len(x), -1, x.shape[-1])


class PoolMlp(LowRank):
    """Low rank with max-pooled features."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, features: int, pool: int):
        super().__init__(config, inputs, outputs, features, widen=pool)
        self.pool = pool

    def between(self, features: Tensor) -> Tensor:
        return F.max_pool1d(features, self.pool)


class RowMlp(LowRank):
    """Low rank with activated features; ``split`` keeps the rows apart where the counts allow it."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, features: int, split: bool):
        super().__init__(config, inputs, outputs, features)
        self.between_act = activation(config.hidden_act)
        self.per_row = split and (inputs == outputs or inputs == 1)
        if self.per_row:
            if inputs != outputs:
                self.fc1 = nn.ModuleList([nn.Linear(config.dim, features * outputs)])
            self.fc2 = nn.ModuleList([nn.Linear(features, config.dim) for _ in range(outputs)])

    def between(self, features: Tensor) -> Tensor:
        return self.between_act(features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.per_row:
            return super().forward(x)
        features = torch.cat([layer(row) for layer, row in zip(self.fc1, x.unbind(1), strict=True)], dim=-1)
        rows = self.between(features).view(len(x), len(self.fc2), -1)
        return torch.stack([layer(row) for layer, row in zip(self.fc2, rows.unbind(1), strict=True)], dim=1)


class ElementWise(nn.Module):
    """A scale and a shift per element."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class Channelled(nn.Module):
    """``f_size`` channels per element: own value and a mix of all, activated, then joined over rows."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, features: int):
        super().__init__()
        self.act = activation(config.channel_act)
        self.fc0 = nn.ModuleList([nn.Linear(1, features, bias=False) for _ in range(inputs)])
        self.fc1 = nn.ModuleList([nn.Linear(config.dim, features) for _ in range(inputs)])
        self.fc2 = nn.Linear(features * inputs, outputs)
        if config.channel_ewl:
            self.ewl1 = nn.ModuleList([ElementWise(config.dim) for _ in range(inputs)])
            if config.channel_ewl2:
                if outputs > inputs:
                    raise DeprojectorError(
                        f"channel_ewl2 has one scale per input row ({inputs}) and cannot make {outputs} "
                        "rows: set channel_ewl2 to false."
                    )
                self.ewl2 = nn.ModuleList([ElementWise(config.dim) for _ in range(inputs)])

    def forward(self, x: Tensor) -> Tensor:
        channels = [self._channels(k, row) for k, row in enumerate(x.unbind(1))]
        rows = self.fc2(torch.cat(channels, dim=-1)).mT
        if hasattr(self, "ewl2"):
            rows = torch.stack([self.ewl2[k](row) for k, row in enumerate(rows.unbind(1))], dim=1)
        return rows

    def _channels(self, k: int, row: Tensor) -> Tensor:
        scaled = self.ewl1[k](row) if hasattr(self, "ewl1") else row
        return self.act(self.fc0[k](scaled[..., None]) + self.fc1[k](row)[..., None, :])


def _layer(
    config: VrnnConfig, kind: str, inputs: int, outputs: int, features: int, pool: int, split: bool = False
) -> nn.Module:
    if kind != "linear" and features < 1:
        raise DeprojectorError(f"the f_size of a {kind!r} layer must be positive, got {features}.")
    match kind:
        case "linear":
            return JoinedLinear(config, inputs, outputs, split)
        case "mlp":
            return RowMlp(config, inputs, outputs, features, split)
        case "lorl":
            return LowRank(config, inputs, outputs, features)
        case "channel":
            return Channelled(config, inputs, outputs, features)
        case "pool":
            return PoolMlp(config, inputs, outputs, features, pool)
    raise DeprojectorError(f"unknown VRNN layer type {kind!r}; known are linear, mlp, lorl, channel, pool.")


def _norms(config: VrnnConfig, count: int) -> nn.ModuleList:
    return nn.ModuleList([nn.LayerNorm(config.dim, eps=config.layer_norm_eps) for _ in range(count)])


def _normed(norms: Any, x: Tensor) -> Tensor:
    return torch.stack([norm(row) for norm, row in zip(norms, x.unbind(1), strict=True)], dim=1)


class FirstRows(nn.Module):
    """Model 1: ``b 1 d -> b m1_vicinity d``."""

    def __init__(self, config: VrnnConfig):
        super().__init__()
        rows, extra = config.m1_vicinity, config.m1_layers - 1
        self.residual = config.residual
        kind, split = (config.m1_type, config.m1_f_size, config.m1_p_size), config.m1_split
        if config.m1_norm:
            self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.impl = _layer(config, kind[0], 1, rows, *kind[1:], split)
        if extra:
            if config.m1_norm:
                self.extra_norm = nn.ModuleList([_norms(config, rows) for _ in range(extra)])
            self.extra_impl = nn.ModuleList(
                [_layer(config, kind[0], rows, rows, *kind[1:], split) for _ in range(extra)]
            )

    def forward(self, embed: Tensor) -> Tensor:
        x = self.impl(self.norm(embed) if hasattr(self, "norm") else embed)
        if self.residual:
            x = x + embed
        for k, layer in enumerate(getattr(self, "extra_impl", ())):
            made = layer(_normed(self.extra_norm[k], x) if hasattr(self, "extra_norm") else x)
            x = made + x if self.residual else made
        return x


class NextRow(nn.Module):
    """Model 2: ``b m d -> b 1 d`` with ``m`` the last ``m2_vicinity`` rows, after row 1 if ``m2_use_s2``."""

    def __init__(self, config: VrnnConfig):
        super().__init__()
        rows, extra = config.m2_vicinity + config.m2_use_s2, config.m2_layers - 1
        self.residual = config.residual
        kind = (config.m2_type, config.m2_f_size, config.m2_p_size)
        more = kind
        if config.m2_ex_type not in ("", "same"):
            more = (config.m2_ex_type, config.m2_ex_f_size, config.m2_ex_p_size)
        self.impl = _layer(config, kind[0], rows, 1, *kind[1:])
        if config.m2_norm:
            # norm[0] belongs to the last layer, norm[k] to extra layer k - 1
            self.norm = nn.ModuleList([_norms(config, rows) for _ in range(config.m2_layers)])
        if extra:
            self.extra_impl = nn.ModuleList(
                [_layer(config, more[0], rows, rows, *more[1:], config.m2_ex_split) for _ in range(extra)]
            )

    def forward(self, x: Tensor) -> Tensor:
        for k, layer in enumerate(getattr(self, "extra_impl", ())):
            made = layer(self._norm(k + 1, x))
            x = made + x if self.residual else made
        made = self.impl(self._norm(0, x))
        return made + x[:, -1:] if self.residual else made

    def _norm(self, layer: int, x: Tensor) -> Tensor:
        return _normed(self.norm[layer], x) if hasattr(self, "norm") else x


class VrnnDeprojector(Deprojector):
    """Family VRNN. Its rows come in the order start, end, after the end, words."""

    def __init__(self, config: VrnnConfig):
        super().__init__(config)
        self.register_buffer("deprojection", torch.zeros(config.dim, config.projection_dim))
        self.register_buffer("sos_embed", torch.zeros(config.dim))
        self.model1 = FirstRows(config)
        self.model2 = NextRow(config)
        self.final_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)

    def weights(self) -> None:
        """Nothing is laid out anew: the layers run as they are stored."""

    def recursion(self, embeds: Tensor) -> "VrnnRecursion":
        return VrnnRecursion(self, embeds)

    def teacher_forced(self, embeds: Tensor, states: Tensor) -> Tensor:
        """The free run: this family is trained on its own rows only (``states`` is not looked at)."""
        embeds = self.checked(embeds, False)
        rows = self._free_run(embeds, 0.0, self.config.rows, None)
        return torch.cat([self.start_row(len(embeds)), rows], dim=1)


class VrnnRecursion:
    """One run of family VRNN; ``detach_all`` and ``detach_s2`` cut gradients as in training."""

    def __init__(self, model: VrnnDeprojector, embeds: Tensor):
        self.model, self.config = model, model.config
        first = model.final_norm(model.model1(embeds[:, None]))
        self.first = list(first.unbind(1))
        self.made = 0
        missing = max(self.config.m2_vicinity - len(self.first), 0)
        seen = first.detach() if self.config.detach_all else first
        self.row1 = seen[:, :1].detach() if self.config.detach_s2 else seen[:, :1]
        self.window = torch.cat([torch.zeros_like(first[:, :1])] * missing + [seen], dim=1)

    def step(self, rows: Tensor | None) -> Tensor:
        self.made += 1
        if self.made <= len(self.first):
            return self.first[self.made - 1][None, :, None]
        if self.made > len(self.first) + 1:
            assert rows is not None
            row = rows[0].detach() if self.config.detach_all else rows[0]
            self.window = torch.cat([self.window, row], dim=1)
        self.window = self.window[:, -self.config.m2_vicinity :]
        near = torch.cat([self.row1, self.window], dim=1) if self.config.m2_use_s2 else self.window
        return self.model.final_norm(self.model.model2(near))[None]
