"""Family VRNN: model 1 makes the first rows from the embedding, model 2 all others from the last few."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import ClipConfig, Deprojector, Step, Unit
from ..errors import DeprojectorError
from ..layers import Linear, activation


@dataclass(frozen=True)
class VrnnConfig(ClipConfig):
    """The fields of family VRNN; ``m1_channel`` and ``m1_mlp`` are old spellings of ``m1_type``."""

    model_type: ClassVar[str] = "clip_text_deprojector_vrnn_model"

    residual: bool = False
    detach_all: bool = False
    detach_s2: bool = False
    m1_norm: bool = False
    m1_vicinity: int = 1
    m1_split: bool = False
    m1_type: str = "linear"
    m1_f_size: int = 64
    m1_p_size: int = 3
    m1_layers: int = 1
    m2_use_s2: bool = False
    m2_norm: bool = False
    m2_vicinity: int = 1
    m2_type: str = "linear"
    m2_f_size: int = 64
    m2_p_size: int = 3
    m2_layers: int = 1
    m2_ex_split: bool = False
    m2_ex_type: str = "same"
    m2_ex_f_size: int = 64
    m2_ex_p_size: int = 3
    channel_act: str = "gelu"
    channel_ewl: bool = False
    channel_ewl2: bool = True
    m1_channel: bool = False
    m1_mlp: bool = False

    def __post_init__(self) -> None:
        if self.m1_channel:
            object.__setattr__(self, "m1_type", "channel")
        elif self.m1_mlp:
            object.__setattr__(self, "m1_type", "mlp")
        for name in ("m1_layers", "m2_layers", "m1_vicinity", "m2_vicinity"):
            if getattr(self, name) < 1:
                raise DeprojectorError(f"config.json: {name} must be at least 1, got {getattr(self, name)}.")


# Every layer below maps ``b inputs d -> b outputs d``: some rows to some rows.


class JoinedLinear(nn.Module):
    """One linear layer from all rows to all rows; ``split`` with as many rows out as in: one per row."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, split: bool):
        super().__init__()
        dim = config.dim
        self.split = split and inputs == outputs
        if self.split:
            self.fc: Any = nn.ModuleList([Linear(dim, dim) for _ in range(inputs)])
        else:
            self.fc = Linear(dim * inputs, dim * outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            return torch.stack([layer(row) for layer, row in zip(self.fc, x.unbind(1), strict=True)], dim=1)
        return self.fc(x.flatten(1)).view(len(x), -1, x.shape[-1])


class LowRank(nn.Module):
    """Every row to ``f_size`` features, all features to all rows; between them ``between``."""

    def __init__(self, config: VrnnConfig, inputs: int, outputs: int, features: int, widen: int = 1):
        super().__init__()
        self.fc1 = nn.ModuleList([Linear(config.dim, features * widen) for _ in range(inputs)])
        self.fc2 = Linear(features * inputs, config.dim * outputs)

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
                self.fc1 = nn.ModuleList([Linear(config.dim, features * outputs)])
            self.fc2 = nn.ModuleList([Linear(features, config.dim) for _ in range(outputs)])

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
        self.fc0 = nn.ModuleList([Linear(1, features, bias=False) for _ in range(inputs)])
        self.fc1 = nn.ModuleList([Linear(config.dim, features) for _ in range(inputs)])
        self.fc2 = Linear(features * inputs, outputs)
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
        raise DeprojectorError(f"The f_size of a {kind!r} layer must be positive, got {features}.")
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
    raise DeprojectorError(f"Unknown VRNN layer type {kind!r}. Available: linear, mlp, lorl, channel, pool.")


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


class VrnnUnit(Unit):
    """Models 1 and 2; ``detach_all`` and ``detach_s2`` cut gradients as in the author's training."""

    def __init__(self, config: VrnnConfig):
        super().__init__(config)
        self.model1 = FirstRows(config)
        self.model2 = NextRow(config)
        self.final_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)

    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        config = self.config
        first = self.final_norm(self.model1(embed[:, None]))
        seen = first.detach() if config.detach_all else first
        row1 = seen[:, :1].detach() if config.detach_s2 else seen[:, :1]
        missing = max(config.m2_vicinity - first.shape[1], 0)
        window = torch.cat([torch.zeros_like(row1)] * missing + [seen], dim=1)
        number = 0

        def step(rows: Tensor | None) -> Tensor:
            nonlocal number, window
            number += 1
            if number <= first.shape[1]:
                return first[:, number - 1 : number]
            if number > first.shape[1] + 1:
                assert rows is not None
                window = torch.cat([window, rows.detach() if config.detach_all else rows], dim=1)
            window = window[:, -config.m2_vicinity :]
            near = torch.cat([row1, window], dim=1) if config.m2_use_s2 else window
            return self.final_norm(self.model2(near))

        return step


class VrnnDeprojector(Deprojector):
    """Family VRNN. Its rows come in the order start, end, after the end, words."""

    config_class = VrnnConfig
    unit_class = VrnnUnit
    sign = "model2."
    presets = {"VRNN": lambda width: dict(m1_type="mlp", m1_f_size=width)}
    starts_from = {"final_norm.": "text_model.final_layer_norm."}
    frozen = ("final_norm.",)

    def published(self, key: str, unit: int) -> str:
        return key

    def teacher_forced(self, embeds: Tensor, states: Tensor) -> Tensor:
        """The free run: this family is trained on its own rows only (``states`` is not used)."""
        return self.free_run(self.checked(embeds, False), 0.0, self.config.rows)
