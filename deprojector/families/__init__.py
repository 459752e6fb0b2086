"""The families of deprojectors. A new family is one file here and one entry in ``FAMILIES``."""

from ..base import Deprojector
from .lstm import LstmConfig, LstmDeprojector
from .mvt import MvtConfig, MvtDeprojector
from .transformer import TransformerConfig, TransformerDeprojector
from .vicinity import VicinityConfig, VicinityDeprojector
from .vrnn import VrnnConfig, VrnnDeprojector
from .vt import VtConfig, VtDeprojector

FAMILIES: tuple[type[Deprojector], ...] = (
    TransformerDeprojector,
    VicinityDeprojector,
    VtDeprojector,
    MvtDeprojector,
    LstmDeprojector,
    VrnnDeprojector,
)

__all__ = [
    "FAMILIES",
    "LstmConfig",
    "MvtConfig",
    "TransformerConfig",
    "VicinityConfig",
    "VrnnConfig",
    "VtConfig",
]
