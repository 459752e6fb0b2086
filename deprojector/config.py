"""The fields of a deprojector's ``config.json``: one frozen record per family.

Names, spellings and defaults are those of the published files (repository
nanashi161382/unstable_diffusion, HEAD 87133b4).
"""

from dataclasses import dataclass
from typing import ClassVar

from .config_base import ClipConfig, Config
from .config_recurrent import LstmConfig, VrnnConfig
from .errors import DeprojectorError

__all__ = [
    "ClipConfig",
    "Config",
    "LstmConfig",
    "MvtConfig",
    "TransformerConfig",
    "VicinityConfig",
    "VrnnConfig",
    "VtConfig",
]


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
