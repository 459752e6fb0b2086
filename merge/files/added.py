"""LoRAs of a recipe, as the file merger sees them. The host layer finds the files and places them, with ComfyUI's names."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..errors import MergeError
from ..recipe.model import Line, LoraTerm
from .checkpoint import Checkpoint


class Added(Protocol):
    """A LoRA on the tensors of a checkpoint."""

    @property
    def keys(self) -> Collection[str]:
        """The tensors that it changes."""
        ...

    @property
    def report(self) -> str:
        """What it changes where, in words."""
        ...

    @property
    def weights(self) -> str:
        """Its block weights as text that means the same everywhere: presets of the user as numbers."""
        ...

    def apply(self, key: str, weight: Tensor) -> Tensor:
        """A whole tensor, float32, with the LoRA; ``weight`` may be overwritten."""
        ...


class Loras(Protocol):
    """Finds LoRA files by name and places them on checkpoints."""

    def find(self, name: str) -> Path:
        """The file that a recipe means by ``name``."""
        ...

    def place(self, name: str, term: LoraTerm, line: Line, source: Checkpoint) -> Added:
        """The LoRA of a file on the first model of a line."""
        ...


class NoLoras:
    """Refuses LoRAs, where there is no ComfyUI to name the layers."""

    def find(self, name: str) -> Path:
        raise MergeError(
            f"The recipe adds the LoRA {name}. ComfyUI is needed to find its layers. Run the recipe with its nodes."
        )

    def place(self, name: str, term: LoraTerm, line: Line, source: Checkpoint) -> Added:
        self.find(name)
        raise AssertionError
