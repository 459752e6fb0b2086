"""What the ``config.json`` of every family of deprojectors holds: its sizes."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar


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
