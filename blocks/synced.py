"""Safetensors files that are on the disk before they get their name."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_synced(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is on the disk when this returns. ``path`` is a temporary name, to be renamed."""
    save_file(dict(tensors), path, metadata=metadata)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
