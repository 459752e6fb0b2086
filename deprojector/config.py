"""The fields of a deprojector's ``config.json``: one frozen record per family.

Names, spellings and defaults are those of the published files (repository
nanashi161382/unstable_diffusion, HEAD 87133b4).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from .errors import DeprojectorError


@dataclass(frozen=True)
class Config:
    """What every family knows: its sizes."""

    model_type: ClassVar[str] = ""

    projection_dim: int = 768
    layer_norm_eps: float = 1e-5
    ensemble_size: int = 1

    @property
    def dim(self) -> int:
        """Width of a hidden state."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """Number of hidden states of one text, the start row included."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """The fields as ``config.json`` holds them, ``model_type`` included."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class ClipConfig(Config):
    """The sizes a deprojector takes over from the CLIP text model it belongs to."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"

    @property
    def dim(self) -> int:
        return self.hidden_size

    @property
    def rows(self) -> int:
        return self.max_position_embeddings


@dataclass(frozen=True)
class TransformerConfig(ClipConfig):
    """One CLIP layer.

    The last three fields are no part of the published files: they spell out the layouts of revisions
    before 443917b.
    """

    model_type: ClassVar[str] = "clip_text_deprojector_model"

    relative_to_null: bool = False
    relative_to_prev: bool = False
    state_projection: bool = False
    state_weited_sum: bool = False
    residual_wrt_prev: bool = False
    residual_wrt_hidden: bool = False
    apply_mlp_to_input: bool = False
    has_null: bool = True  # False: the first layout, which knows no empty text
    embed_second: bool = True  # False: the embedding stands first and the start row second
    expand: bool = False  # True: the first slot is act(expand(e)) (17391c8 only)

    def __post_init__(self) -> None:
        if self.residual_wrt_hidden and not self.relative_to_null and not self.residual_wrt_prev:
            raise DeprojectorError(
                "residual_wrt_hidden needs relative_to_null: set it to true in config.json."
            )
        if not self.has_null and self.embed_second:
            raise DeprojectorError(
                "a file without null_embed has the first layout: embed_second must be false."
            )


@dataclass(frozen=True)
class VicinityConfig(Config):
    """An MLP over the embedding and the last few rows."""

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

    @property
    def dim(self) -> int:
        return self.embed_dim

    @property
    def rows(self) -> int:
        return self.seq_len


@dataclass(frozen=True)
class VtConfig(ClipConfig):
    """Attention beside a vicinity layer."""

    model_type: ClassVar[str] = "clip_text_deprojector_vt_model"

    squashed: bool = False
    relative_to_null: bool = True
    apply_norm_first: bool = False
    apply_norm_to_all: bool = False
    vicinity: int = 2
    use_mlp_first_layer: bool = False
    use_same_mlp_first_layer: bool = False
    use_individual_first_layer: bool = False
    no_first_embed_layer: bool = False
    first_layer_activation: bool = False
    first_layer_residual_connection: bool = False
    first_layer_dim: int = 768
    first_embed_pre_layer_dim: int = 0
    first_embed_layer_dim: int = 768
    first_embed_layer_dropout: float = 0.0
    require_grad_in_attention: bool = False
    use_full_attention: bool = False
    use_regular_attention_residual_connection: bool = False
    embeds_in_attention: bool = False
    num_mlp_layers: int = 1
    mlp_layer_dim: int = 3072
    mlp_dropout: float = 0.0
    use_residual_connection: bool = True
    use_embeds_for_residual_connection: bool = False
    use_final_vicinity: bool = False

    def __post_init__(self) -> None:
        if self.squashed and self.use_full_attention:
            raise DeprojectorError(
                "squashed and use_full_attention exclude each other: set one of them to false."
            )
        regular = self.use_full_attention and self.use_regular_attention_residual_connection
        if regular and not self.use_residual_connection:
            raise DeprojectorError(
                "use_regular_attention_residual_connection needs use_residual_connection: set it to true."
            )
        individual = self.use_individual_first_layer and not self.use_mlp_first_layer
        fits = self.first_layer_dim == self.dim and self.first_embed_layer_dim % self.dim == 0
        if individual and self.first_layer_residual_connection and not fits:
            raise DeprojectorError(
                f"first_layer_residual_connection needs first_layer_dim {self.dim} and "
                f"first_embed_layer_dim a multiple of it; config.json has {self.first_layer_dim} and "
                f"{self.first_embed_layer_dim}."
            )
        if self.use_final_vicinity and self.vicinity_dim != self.dim * (1 + self.vicinity):
            raise DeprojectorError(
                f"use_final_vicinity needs a first layer of {self.dim * (1 + self.vicinity)} outputs "
                f"(hidden_size * (1 + vicinity)); first_layer_dim and first_embed_layer_dim give "
                f"{self.vicinity_dim}."
            )

    @property
    def vicinity_dim(self) -> int:
        """Width of the vicinity features that go into ``linear2``."""
        if self.use_mlp_first_layer:
            return self.dim * (self.vicinity + (not self.no_first_embed_layer))
        if self.use_individual_first_layer:
            return self.first_embed_layer_dim + self.first_layer_dim * self.vicinity
        return self.first_layer_dim


@dataclass(frozen=True)
class MvtConfig(ClipConfig):
    """Several layers of attention, vicinity and MLP."""

    model_type: ClassVar[str] = "clip_text_deprojector_mvt_model"

    vicinity: int = 2
    only_first_vicinity: bool = False
    vicinity_before_attention: bool = False
    vicinity_res_plus_embeds: bool = False
    all_in_vicinity: bool = False
    use_vicinity_mlp: bool = False
    vicinity_mlp_dim: int = 768
    vicinity_act: str = ""
    use_vicinity_gate: bool = False
    num_vt_layers: int = 1
    mlp_layer_dim: int = 3072
    use_old_norm: bool = True


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
