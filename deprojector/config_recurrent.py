"""The fields of a ``config.json`` of the recurrent families; see ``config``."""

from dataclasses import dataclass
from typing import ClassVar

from .config_base import ClipConfig
from .errors import DeprojectorError


@dataclass(frozen=True)
class LstmConfig(ClipConfig):
    """Recurrent models 1, 2 and 3; ``use_model3`` wins over ``use_model2``."""

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
                f"LSTM model 1 needs lstm_hidden_size >= hidden_size ({self.dim}); config.json has "
                f"{self.lstm_hidden_size}. Was use_model2 or use_model3 meant to be true?"
            )

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
                raise DeprojectorError("vicinity_mode goes neither with out_proj nor with use_mlp.")
        if wide and self.x_residual:
            raise DeprojectorError(
                f"x_residual needs lstm_hidden_size equal to hidden_size ({self.dim}) or 0, config.json has "
                f"{self.lstm_hidden_size}: set x_residual to false."
            )
        if wide and self.x_out_residual and not self.out_proj:
            raise DeprojectorError("x_out_residual with a wide LSTM needs out_proj: set it to true.")
        if self.use_mlp and not all(self.adds_embed(layer) for layer in range(self.num_layers)):
            raise DeprojectorError("use_mlp and add_embed_once exclude each other.")
        if self.use_mlp and self.additional_mlp and self.mlp_intermediate_dim:
            raise DeprojectorError("use_mlp and additional_mlp exclude each other.")


@dataclass(frozen=True)
class VrnnConfig(ClipConfig):
    """Vicinity RNN; ``m1_channel`` and ``m1_mlp`` are old spellings of ``m1_type``."""

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
