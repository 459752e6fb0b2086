"""Family T: one CLIP encoder layer, from the first published model (3d9d890) to HEAD.

The sequence starts with two slots made from the embedding; slot ``i >= 2`` stands for the row before it, and
output ``i`` is row ``i``. Every flag changes how a slot is made or what is added to the layer's output.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..base import ClipConfig, Deprojector, Step, Unit
from ..errors import DeprojectorError
from ..layers import Attention, KeyValues, Linear, Mlp, quick_gelu


@dataclass(frozen=True)
class TransformerConfig(ClipConfig):
    """The last three fields are not in the published files: they are the layouts of revisions before 443917b."""

    model_type: ClassVar[str] = "clip_text_deprojector_model"

    relative_to_null: bool = False
    relative_to_prev: bool = False
    state_projection: bool = False
    state_weited_sum: bool = False
    residual_wrt_prev: bool = False
    residual_wrt_hidden: bool = False
    apply_mlp_to_input: bool = False
    has_null: bool = True  # False: the first layout, without a row of the empty text
    embed_second: bool = True  # False: the embedding first, the start row second
    expand: bool = False  # True: the first slot is act(expand(e)) (17391c8 only)

    def __post_init__(self) -> None:
        if self.residual_wrt_hidden and not self.relative_to_null and not self.residual_wrt_prev:
            raise DeprojectorError(
                "residual_wrt_hidden needs relative_to_null. Set it to true in config.json."
            )
        if not self.has_null and self.embed_second:
            raise DeprojectorError(
                "A file without null_embed has the first layout: embed_second must be false."
            )


class EncoderLayer(nn.Module):
    """A CLIP encoder layer."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.self_attn = Attention(config.dim, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.dim, config.intermediate_size, config.hidden_act)
        self.layer_norm2 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, cache: KeyValues, last: int) -> Tensor:
        x = x[:, -last:] + self.self_attn(self.layer_norm1(x), cache, last)
        return x + self.mlp(self.layer_norm2(x))


class TransformerUnit(Unit):
    """Keys and values are cached, so every step sends one row through the layer."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        dim = config.dim
        if config.expand:
            self.expand = Linear(dim, dim)
        if config.state_projection:
            self.state_proj = Linear(3 * dim, dim)
        elif config.state_weited_sum:
            self.state_weight = nn.Parameter(torch.tensor([[0.0], [1.0], [0.0]]))
        if config.apply_mlp_to_input:
            self.mlp_to_input = Mlp(dim, config.intermediate_size, config.hidden_act)
        self.position_embedding = nn.Embedding(config.rows, dim)
        self.encoder_layer = EncoderLayer(config)
        self.final_layer_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)

    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        config, position = self.config, self.position_embedding.weight
        embed = embed[:, None]
        relative = embed - null if config.relative_to_null else embed
        cache = KeyValues(config.rows)
        before = null.expand_as(embed)  # before the first row comes the empty text
        place = 2

        def step(rows: Tensor | None) -> Tensor:
            nonlocal before, place
            if rows is None:
                slots = self._first_slots(relative, start, null) + position[:2]
                wants_null = config.residual_wrt_prev or config.residual_wrt_hidden
                return self._predict(slots, 1, cache, null if wants_null else None)
            count = rows.shape[1]
            previous = torch.cat([before, rows[:, :-1]], dim=1)
            before = rows[:, -1:]
            slots = self._slots(rows, previous, embed, relative, null) + position[place : place + count]
            place += count
            residual = None
            if config.residual_wrt_prev:
                residual = rows
            elif config.residual_wrt_hidden:
                residual = slots + null
            return self._predict(slots, count, cache, residual)

        return step

    def _first_slots(self, relative: Tensor, start: Tensor, null: Tensor) -> Tensor:
        config = self.config
        if config.expand:
            first = quick_gelu(self.expand(relative))
        elif config.apply_mlp_to_input:
            first = self.mlp_to_input(relative)
        elif config.embed_second:
            first = null.expand_as(relative)
        else:
            second = start - null if config.relative_to_null else start
            return torch.cat([relative, second.expand_as(relative)], dim=1)
        return torch.cat([first, relative], dim=1)

    def _slots(self, rows: Tensor, previous: Tensor, embed: Tensor, relative: Tensor, null: Tensor) -> Tensor:
        """The slots that stand for ``rows``, before the positions are added."""
        config = self.config
        if config.state_weited_sum:
            parts = [previous, rows, relative.expand_as(rows)]
            if config.relative_to_null:
                parts[:2] = [previous - null, rows - null]
            if config.state_projection:  # both flags set: the projection mixes these parts
                return self.state_proj(torch.cat(parts, dim=-1))
            return sum(weight * part for weight, part in zip(self.state_weight, parts, strict=True))  # pyright: ignore
        if config.state_projection:
            return self.state_proj(torch.cat([rows - previous, rows - null, embed - rows], dim=-1))
        if config.relative_to_prev:
            return rows - previous
        return rows - null if config.relative_to_null else rows

    def _predict(self, slots: Tensor, last: int, cache: KeyValues, residual: Tensor | None) -> Tensor:
        x = self.encoder_layer(slots, cache, last)
        return self.final_layer_norm(x if residual is None else x + residual)


class TransformerDeprojector(Deprojector):
    """Family T. A single model's tensors have bare names, an ensemble's carry the unit's number."""

    config_class = TransformerConfig
    unit_class = TransformerUnit
    sign = "encoder_layer."
    keeps_null = True
    projection_name = "projection.weight"
    presets = {
        "transformer": lambda _: dict(relative_to_null=True),
        "transformer, MLP on the input": lambda _: dict(relative_to_null=True, apply_mlp_to_input=True),
    }
    starts_from = {
        "encoder_layer.": "text_model.encoder.layers.{last}.",
        "position_embedding.": "text_model.embeddings.position_embedding.",
        "final_layer_norm.": "text_model.final_layer_norm.",
    }

    def __init__(self, config: Any):
        super().__init__(config)
        self.register_buffer("position_ids", torch.arange(config.rows)[None])

    def published(self, key: str, unit: int) -> str:
        if self.config.ensemble_size == 1:
            return key
        part, _, rest = key.partition(".")
        return ".".join(filter(None, [part, str(unit), rest]))
