"""Reads the names, dtypes and shapes in a model file without reading its tensors, and refuses broken files by name."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

LFS_MARK = b"version https://git-lfs"
SAFETENSORS = (".safetensors", ".sft")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class FileError(ValueError):
    """A model file cannot be read; the message names the file, says why, and says what to do."""


def check(path: str) -> None:
    """FileError when a file is an LFS pointer, is truncated, or is not of the format its ending says."""
    file = Path(path)
    with file.open("rb") as stream:
        start = stream.read(len(LFS_MARK))
    if start == LFS_MARK:
        raise FileError(
            f"{file.name} is a Git LFS pointer of {file.stat().st_size} bytes, not the model itself. Download the "
            "model file, for example with `git lfs pull`."
        )
    if file.suffix.lower() in SAFETENSORS:
        _header(file)


def meta_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file on the meta device: names, dtypes and shapes; FileError."""
    check(path)
    file = Path(path)
    if file.suffix.lower() in SAFETENSORS:
        return {
            name: torch.empty(entry["shape"], dtype=DTYPES.get(entry["dtype"], torch.uint8), device="meta")
            for name, entry in _header(file).items()
        }
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise FileError(
            f"{file.name} cannot be read: {error}. Download it again, or use a safetensors file."
        ) from error
    return {name: tensor.to("meta") for name, tensor in _unwrapped(loaded).items() if torch.is_tensor(tensor)}


def _unwrapped(loaded: Any) -> dict[str, Any]:
    """The state dict in what ``torch.load`` gave, found as core's loader finds it."""
    if not isinstance(loaded, dict):
        return {}
    inner = loaded.get("state_dict", next(iter(loaded.values())) if len(loaded) == 1 else loaded)
    return inner if isinstance(inner, dict) else loaded


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """Entries of a safetensors header by tensor name, with the file's size checked against them."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= size - 8 else None
        if header is None:
            raise FileError(
                f"{file.name} is truncated inside its header, or is not a safetensors file. Download it again."
            )
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{file.name} is not a safetensors file: its header cannot be read. Download it again, or give the "
            "file the ending of its real format."
        ) from error
    if size < end:
        raise FileError(
            f"{file.name} is truncated: it has {size} bytes, and its header lists {end}. Download it again."
        )
    return cast(dict[str, dict[str, Any]], entries)
