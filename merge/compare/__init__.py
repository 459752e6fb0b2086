"""How much two models differ, block by block."""

from .comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
