"""Family V: an MLP with batch norms over the embedding and the last ``vicinity`` rows, newest first."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import Config, Deprojector, Step, Unit
from ..layers import Linear, Window, activation, beside


@dataclass(frozen=True)
class VicinityConfig(Config):
    """The fields of family V."""

    model_type: ClassVar[str] = "clip_text_deprojector_v_model"

    activation: str = "quick_gelu"
    seq_len: int = 77
    embed_dim: int = 768
    use_individual_first_layer: bool = False
    sum_after_first_activation: bool = False
    first_embed_layer_dim: int = 768
    first_layer_dim: int = 768
    num_mlp_layers: int = 1
    mlp_layer_dim: int = 3072
    use_residual_connection: bool = False
    use_side_input: bool = False
    vicinity: int = 3
    relative_to_null: bool = True

    @classmethod
    def of_sizes(cls, **fields: Any) -> "VicinityConfig":
        names = {
            "hidden_size": "embed_dim",
            "max_position_embeddings": "seq_len",
            "intermediate_size": "mlp_layer_dim",
        }
        renamed = {names.get(name, name): value for name, value in fields.items()}
        del renamed["num_attention_heads"]
        return cls(**renamed)

    @property
    def dim(self) -> int:
        return self.embed_dim

    @property
    def rows(self) -> int:
        return self.seq_len


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over all rows, ``b n d``; in evaluation a scale and a shift in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x.flatten(0, 1)).view_as(x)
        mean, var = self.running_mean, self.running_var
        assert mean is not None and var is not None
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul(self.bias - mean * scale, x, scale)


class VicinityMlp(nn.Module):
    """One MLP layer; with ``use_side_input`` it sees the embedding too."""

    def __init__(self, config: VicinityConfig):
        super().__init__()
        self.act = activation(config.activation)
        self.norm = BatchNorm(config.dim, eps=config.layer_norm_eps)
        self.linear1 = Linear(config.dim * (1 + config.use_side_input), config.mlp_layer_dim)
        self.linear2 = Linear(config.mlp_layer_dim, config.dim)


class VicinityUnit(Unit):
    """One unit of family V."""

    def __init__(self, config: VicinityConfig):
        super().__init__(config)
        dim, states, embed = config.dim, config.first_layer_dim, config.first_embed_layer_dim
        self.act = activation(config.activation)
        if config.use_individual_first_layer:
            self.linear1_embeds = Linear(dim, embed)
            self.linear1_states = Linear(dim, states)
            width = embed + states * (1 if config.sum_after_first_activation else config.vicinity)
        else:
            self.linear1 = Linear(dim * (1 + config.vicinity), states)
            width = states
        self.linear2 = Linear(width, dim)
        self.mlp_layers: Any = nn.ModuleList([VicinityMlp(config) for _ in range(config.num_mlp_layers)])
        self.final_norm = BatchNorm(dim, eps=config.layer_norm_eps)

    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        config = self.config
        embed = embed[:, None]
        if config.relative_to_null:
            embed = embed - null
        zero = torch.zeros_like(embed)
        window = Window(config.vicinity, zero)

        def step(rows: Tensor | None) -> Tensor:
            state = zero if rows is None else rows - null if config.relative_to_null else rows
            x = self.linear2(self._first(embed, window(state)))
            if config.use_residual_connection:
                x = x + state
            for layer in self.mlp_layers:
                inputs = beside(embed, [layer.norm(x)]) if config.use_side_input else layer.norm(x)
                made = layer.linear2(layer.act(layer.linear1(inputs)))
                x = x + made if config.use_residual_connection else made
            return self.final_norm(x)

        return step

    def _first(self, embed: Tensor, near: list[Tensor]) -> Tensor:
        if not self.config.use_individual_first_layer:
            return self.act(self.linear1(beside(embed, near)))
        made = [self.act(self.linear1_states(row)) for row in near]
        if self.config.sum_after_first_activation:
            made = [torch.stack(made).sum(0)]
        return beside(self.act(self.linear1_embeds(embed)), made)


class VicinityDeprojector(Deprojector):
    """Family V."""

    config_class = VicinityConfig
    unit_class = VicinityUnit
    sign = "final_norm.0.running_mean"
    keeps_null = True
    presets = {"V": lambda width: dict(first_layer_dim=width, first_embed_layer_dim=width)}

    def published(self, key: str, unit: int) -> str:
        part, _, rest = key.partition(".")
        return f"{part}.{unit}.{rest}"
