"""The LSTM family's configuration, and what its three models share."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..base import ClipConfig, Step, Unit
from ..errors import DeprojectorError

Row = Callable[[Tensor], Tensor]  # one row of a run, ``b d -> b d``


@dataclass(frozen=True)
class LstmConfig(ClipConfig):
    """The fields of models 1, 2 and 3; ``use_model3`` takes precedence over ``use_model2``."""

    model_type: ClassVar[str] = "clip_text_deprojector_lstm_model"

    use_model3: bool = False
    num_layers: int = 2
    add_embed_once: bool = False
    add_embed_at: int = -1
    use_x_norm: bool = True
    combined_x_norm: bool = False
    x_residual: bool = True
    h0_residual: bool = False
    h0_excl_residual: bool = False
    x_out_residual: bool = False
    states_proj: bool = False
    out_proj: bool = False
    vicinity_mode: bool = False
    additional_mlp: bool = False
    lstm_hidden_size: int = 0
    use_mlp: bool = False
    use_model2: bool = False
    lstm_hidden_with_residual: bool = False
    mlp_intermediate_dim: int = 0
    use_c_norm: bool = True
    use_h_norm: bool = True
    use_global_state_norm: bool = False
    use_extra: bool = False
    use_extra_scale: bool = False
    use_extra_norm: bool = False
    use_extra_linear: bool = True
    use_hidden_0: bool = True
    use_context_0: bool = False
    use_state_0: bool = False
    use_sos: bool = False
    use_out_norm: bool = False
    use_out_scale: bool = False
    use_out_proj: bool = False
    use_out_extended_proj: bool = False
    use_attention: bool = False

    def __post_init__(self) -> None:
        if self.use_model3:
            self._check_model3()
        elif not self.use_model2 and self.lstm_hidden_size < self.dim:
            raise DeprojectorError(
                f"LSTM model 1 needs lstm_hidden_size >= hidden_size ({self.dim}), config.json has "
                f"{self.lstm_hidden_size}. Set use_model2 or use_model3 to true if the weights are of those."
            )

    @property
    def hidden(self) -> int:
        """Width of the LSTM's state."""
        return self.lstm_hidden_size or self.dim

    def adds_embed(self, layer: int) -> bool:
        """Whether that layer of model 3 adds the embedding."""
        chosen = self.add_embed_at + (self.num_layers if self.add_embed_at < 0 else 0)
        return not self.add_embed_once or layer == chosen

    def _check_model3(self) -> None:
        wide = self.lstm_hidden_size not in (0, self.dim)
        if self.vicinity_mode:
            if self.lstm_hidden_size == 0:
                raise DeprojectorError("vicinity_mode needs lstm_hidden_size > 0 in config.json.")
            if self.out_proj or self.use_mlp:
                raise DeprojectorError("vicinity_mode excludes out_proj and use_mlp.")
        if wide and self.x_residual:
            raise DeprojectorError(
                f"x_residual needs lstm_hidden_size equal to hidden_size ({self.dim}) or 0, config.json has "
                f"{self.lstm_hidden_size}. Set x_residual to false."
            )
        if wide and self.x_out_residual and not self.out_proj:
            raise DeprojectorError("x_out_residual with a wide LSTM needs out_proj. Set it to true.")
        if self.use_mlp and self.add_embed_once and self.num_layers > 1:
            raise DeprojectorError("use_mlp and add_embed_once exclude each other.")
        if self.use_mlp and self.additional_mlp and self.mlp_intermediate_dim:
            raise DeprojectorError("use_mlp and additional_mlp exclude each other.")


def norm(config: LstmConfig, width: int, wanted: bool = True) -> nn.Module:
    return nn.LayerNorm(width, eps=config.layer_norm_eps) if wanted else nn.Identity()


class LstmUnit(Unit):
    """What the three models share: the first input, and rows one by one."""

    @abstractmethod
    def run(self, embed: Tensor) -> Row:
        """One run over embeddings ``b d``."""

    def begin(self, embed: Tensor, start: Tensor, null: Tensor) -> Step:
        row = self.run(embed)
        first = torch.zeros_like(embed)
        if self.config.use_state_0:
            first = embed
        elif self.config.use_sos:
            first = start.expand_as(embed)

        def step(rows: Tensor | None) -> Tensor:
            if rows is None:
                return row(first)[:, None]
            return torch.stack([row(x) for x in rows.unbind(1)], dim=1)

        return step
