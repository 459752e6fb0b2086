"""The layout of a model file, read off its header alone: which blocks it has, and what share of the parameters."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .keymap import block_of
from .keys import AUDIO_MODEL, COSMOS, MODEL, PLAIN, PREFIXES, UNET, is_quantised
from .names import BlockError
from .stacks import read_layout

LARGEST_HEADER = 64 * 1024 * 1024  # bytes
_BARE = (AUDIO_MODEL, COSMOS, PLAIN)


def layout_of_file(path: Path) -> dict[str, Any]:
    """``Layout.as_json`` of a safetensors file with ``facts``: per block its tensors and its share of the parameters.

    BlockError says why a file cannot be read. Read again only when size or time of the file changes.
    """
    state = path.stat()
    return _layout_of_file(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _layout_of_file(path: Path, size: int, _: int) -> dict[str, Any]:
    header = _read_header(path, size)
    keys = {
        key: info
        for key, info in zip(diffusion_keys(header), header.values(), strict=True)
        if not is_quantised(key)
    }
    layout = read_layout(keys)
    tensors, numbers = Counter[str](), Counter[str]()
    for key, info in keys.items():
        if key.startswith(PREFIXES[UNET]) and (block := block_of(key, layout)):
            tensors[block] += 1
            numbers[block] += math.prod(info["shape"])
    total = sum(numbers.values()) or 1
    facts = {block: {"tensors": tensors[block], "share": numbers[block] / total} for block in tensors}
    return layout.as_json() | {"facts": facts}


def diffusion_keys(keys: Iterable[str]) -> list[str]:
    """The keys of a file with ``diffusion_model.`` in front where the file holds the diffusion model alone."""
    names = list(keys)
    if any(name.startswith(PREFIXES[UNET]) for name in names):
        return names
    prefix = next((known for known in _BARE if sum(name.startswith(known) for name in names) > 5), "")
    return [MODEL + name.removeprefix(prefix) for name in names]


def _read_header(path: Path, size: int) -> Mapping[str, Any]:
    """The tensors of a safetensors header; shapes checked, offsets not, because nothing is read by them."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise BlockError(f"{path.name} is not a safetensors file. Choose the layout in the menu.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise BlockError(f"{path.name} is not a safetensors file, or is truncated.")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        if all(all(isinstance(n, int) and n >= 0 for n in info["shape"]) for info in header.values()):
            return header
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise BlockError(f"The header of {path.name} cannot be read.")
