"""Checkpoints read piece by piece: a safetensors file as a table of tensors that nothing holds in memory."""

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import MergeError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 100 << 20  # the limit of safetensors' own reader
HASH_STRETCH = 4 << 20


@dataclass(frozen=True)
class Entry:
    """dtype and shape of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor's bytes: where they begin in an open file."""

    file: "FileCheckpoint"
    offset: int

    def read(self, start: int, count: int) -> memoryview:
        """``count`` bytes from the ``start``-th on."""
        return self.file.bytes_at(self.offset + start, count).data


class Checkpoint(Protocol):
    """A table of tensors that can be read in pieces: a file, or a merge that does not exist yet."""

    @property
    def name(self) -> str: ...

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements [start, stop) of the flattened tensor."""
        ...

    def divisible(self, key: str) -> bool:
        """Whether pieces of this tensor can be computed apart."""
        ...

    def stored(self, key: str) -> "Stored | None":
        """Where the very bytes of this tensor stand in a file; None when it is computed, cast or looked at."""
        ...


class FileCheckpoint:
    """A safetensors file, opened for reading by position: many threads may read at once.

    Raises MergeError when the file is missing, truncated, overlapping or not safetensors at all. Memory
    mapping is avoided on purpose: mapped pages count as the process's memory and defeat its limits.
    """

    def __init__(self, path: Path, name: str | None = None):
        self.path = path
        self.name = name or path.name
        if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
            raise MergeError(
                f"{self.name} is a pickle; convert it to .safetensors first, pickles run code when read"
            )
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise MergeError(f"cannot open {self.name}: {error.strerror}") from error
        self._lock = threading.Lock()
        self._read_header()

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self.bytes_at(0, min(8, size)).tobytes()
        length = int.from_bytes(head, "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise MergeError(f"{self.name} is no safetensors file, or it is cut off inside its header")
        try:
            header = json.loads(self.bytes_at(8, length).tobytes())
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self._offsets = {key: tuple(info["data_offsets"]) for key, info in header.items()}
            self.entries = {
                key: Entry(DTYPES[info["dtype"]], tuple(info["shape"])) for key, info in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MergeError(f"the header of {self.name} cannot be read: {error!r}") from error
        self.start = 8 + length  # of the tensors
        end = 0
        for key, (first, last) in sorted(self._offsets.items(), key=lambda item: item[1]):
            if first != end or last - first != self.entries[key].nbytes:
                raise MergeError(f"{self.name}: the tensor {key} does not lie where the header says")
            end = last
        if size != self.start + end:
            missing = self.start + end - size
            what = (
                f"is cut off: {missing} bytes are missing"
                if missing > 0
                else f"has {-missing} bytes too many"
            )
            raise MergeError(f"{self.name} {what}; download or save it again")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        entry = self.entries[key]
        stop = entry.numel if stop is None else stop
        width = entry.dtype.itemsize
        raw = self.bytes_at(self.start + self._offsets[key][0] + start * width, (stop - start) * width)
        return torch.from_numpy(raw).view(entry.dtype)

    def divisible(self, key: str) -> bool:
        return True

    def stored(self, key: str) -> Stored | None:
        return Stored(self, self.start + self._offsets[key][0])

    def offset(self, key: str) -> int:
        """Where the tensor begins in the file, for reading in the file's own order."""
        return self._offsets[key][0]

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def bytes_at(self, offset: int, count: int) -> np.ndarray:
        """``count`` bytes of the file; MergeError when it ends before."""
        buffer = np.empty(count, dtype=np.uint8)
        view, done = buffer.data, 0
        while done < count:
            got = self._read_into(view[done:], offset + done)
            if got == 0:
                raise MergeError(f"{self.name} ended {count - done} bytes early while it was being read")
            done += got
        return buffer

    def _read_into(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        with self._lock:  # no positioned reads on this system
            self._file.seek(offset)
            return self._file.readinto(view) or 0

    @cached_property
    def sha256(self) -> str:
        """sha256 of the whole file, remembered while the file does not change."""
        status = os.fstat(self._file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, str(self.path))
        if key not in _HASHES:
            digest = hashlib.sha256()
            for offset in range(0, status.st_size, HASH_STRETCH):
                digest.update(self.bytes_at(offset, min(HASH_STRETCH, status.st_size - offset)).data)
            while len(_HASHES) >= 256:
                _HASHES.pop(next(iter(_HASHES)))
            _HASHES[key] = digest.hexdigest()
        return _HASHES[key]

    @property
    def legacy_hash(self) -> str:
        """The eight digits that AUTOMATIC1111's first hash gives: sha256 of 64 KiB at 1 MiB."""
        size = os.fstat(self._file.fileno()).st_size
        start = min(0x100000, size)
        return hashlib.sha256(self.bytes_at(start, min(0x10000, size - start)).data).hexdigest()[:8]

    def close(self) -> None:
        self._file.close()


_HASHES: dict[tuple, str] = {}


class TensorCheckpoint:
    """Tensors at hand, or made when asked for, as a checkpoint."""

    def __init__(self, name: str, entries: Mapping[str, Entry], get: Callable[[str], Tensor]):
        self.name, self.entries, self._get = name, entries, get

    @classmethod
    def of(cls, name: str, tensors: Mapping[str, Tensor]) -> "TensorCheckpoint":
        """A state dict as a checkpoint."""
        entries = {key: Entry(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
        return cls(name, entries, tensors.__getitem__)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self._get(key).reshape(-1)[start:stop]

    def divisible(self, key: str) -> bool:
        return False  # reading a piece costs as much as reading it whole

    def stored(self, key: str) -> Stored | None:
        return None
