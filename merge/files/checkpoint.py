"""Checkpoints read piece by piece: a safetensors file as a table of tensors that nothing holds in memory."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import MergeError
from .header import Entry, read_header
from .kinds import naming_of, refuse_unmergeable
from .notations import with_quantised

HASH_STRETCH = 4 << 20
PICKLES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Stored:
    """A tensor's bytes: where they begin in an open file."""

    file: "FileCheckpoint"
    offset: int

    def read(self, start: int, count: int) -> memoryview:
        """``count`` bytes from the ``start``-th on."""
        return self.file.bytes_at(self.offset + start, count).data

    def read_into(self, buffer: np.ndarray, start: int) -> None:
        """Fill ``buffer`` (bytes) with those from the ``start``-th on."""
        self.file.fill(buffer, self.offset + start)


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
        """Where the bytes of this tensor are in a file; None when it is computed, cast, checked or quantised."""
        ...


class OpenFile:
    """A regular file, opened for reading by position: many threads may read at once.

    Raises MergeError when it is missing, a pipe or a device, or a pickle. Memory mapping is avoided on purpose:
    mapped pages count as the process's memory and defeat its limits.
    """

    def __init__(self, path: Path, name: str | None = None):
        self.path = path
        self.name = name or path.name
        if path.suffix.lower() in PICKLES:
            raise MergeError(
                f"{self.name} is a pickle, which can run code when it is read. Convert it to .safetensors first."
            )
        self._file = _open_regular(path, self.name)
        self._lock = threading.Lock()
        self._status = os.fstat(self._file.fileno())
        self._hash = ""

    @property
    def size(self) -> int:
        return self._status.st_size

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def bytes_at(self, offset: int, count: int) -> np.ndarray:
        """``count`` bytes of the file; MergeError when it ends before."""
        buffer = np.empty(count, dtype=np.uint8)
        self.fill(buffer, offset)
        return buffer

    def fill(self, buffer: np.ndarray, offset: int) -> None:
        """Fill ``buffer`` (bytes) from ``offset`` on; MergeError when the file ends before."""
        view, done, count = buffer.data, 0, len(buffer)
        while done < count:
            try:
                got = self._read_into(view[done:], offset + done)
            except OSError as error:
                raise MergeError(f"{self.name} cannot be read: {error.strerror}.") from error
            if got == 0:
                raise MergeError(f"{self.name} ended {count - done} bytes early while it was being read.")
            done += got

    def _read_into(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        with self._lock:  # no positioned reads on this system
            self._file.seek(offset)
            return self._file.readinto(view) or 0  # pyright: ignore[reportAttributeAccessIssue]

    def check_unchanged(self) -> None:
        """MergeError when the file was written to, or replaced by another, since it was opened."""
        here = os.fstat(self._file.fileno())
        try:
            there = self.path.stat()
        except OSError:
            there = here  # deleted or moved: the open file still holds the bytes
        if _state(here) != _state(self._status) or (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            raise MergeError(
                f"{self.name} was changed while it was being merged. Nothing was written; run the merge again."
            )

    def hash(self, tick: Tick = lambda done: None) -> str:
        """sha256 of the whole file, remembered while the file does not change; ``tick`` may raise to stop."""
        if self._hash:
            return self._hash
        key = (*_state(self._status), str(self.path))
        if key not in _HASHES:
            digest = hashlib.sha256()
            for offset in range(0, self.size, HASH_STRETCH):
                count = min(HASH_STRETCH, self.size - offset)
                digest.update(self.bytes_at(offset, count).data)
                tick(count)
            if _state(os.fstat(self._file.fileno())) != _state(self._status):
                self.check_unchanged()
            while len(_HASHES) >= 256:
                _HASHES.pop(next(iter(_HASHES)), None)
            _HASHES[key] = digest.hexdigest()
        self._hash = _HASHES[key]
        return self._hash

    @property
    def sha256(self) -> str:
        """``hash()`` as a property."""
        return self.hash()

    @property
    def legacy_hash(self) -> str:
        """The eight digits that AUTOMATIC1111's first hash gives: sha256 of 64 KiB at 1 MiB."""
        start = min(0x100000, self.size)
        return hashlib.sha256(self.bytes_at(start, min(0x10000, self.size - start)).data).hexdigest()[:8]

    def close(self) -> None:
        self._file.close()


class FileCheckpoint(OpenFile):
    """A safetensors file as a checkpoint, its keys as merges name them (see ``kinds``).

    Raises MergeError when the file cannot be opened, is not a whole and valid safetensors file, or holds what
    cannot be merged: a LoRA, one shard, a model in the diffusers format, weights that are quantised in an unknown form.
    Quantised weights are read as float32.
    """

    def __init__(self, path: Path, name: str | None = None):
        super().__init__(path, name)
        try:
            header = read_header(
                self.name, self.size, lambda start, count: self.bytes_at(start, count).tobytes()
            )
            refuse_unmergeable(self.name, header.entries)
            self.metadata, self.start = header.metadata, header.start
            self.naming = naming_of(header.entries)
            self._offsets = {self.naming.hold(key): span for key, span in header.offsets.items()}
            entries = with_quantised(
                self.name,
                header.entries,
                header.metadata,
                lambda key: Stored(self, header.start + header.offsets[key][0]),
            )
            self.entries = {self.naming.hold(key): entry for key, entry in entries.items()}
        except BaseException:
            self.close()
            raise

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        entry = self.entries[key]
        stop = entry.numel if stop is None else stop
        if entry.quantised is not None:
            return entry.quantised.read(entry.shape, start, stop)
        width = entry.dtype.itemsize
        raw = self.bytes_at(self.start + self._offsets[key][0] + start * width, (stop - start) * width)
        return torch.from_numpy(raw).view(entry.dtype)

    def divisible(self, key: str) -> bool:
        return True

    def stored(self, key: str) -> Stored | None:
        return None if self.entries[key].quantised else Stored(self, self.start + self._offsets[key][0])

    def offset(self, key: str) -> int:
        """Where the tensor begins in the file, for reading in the file's own order."""
        return self._offsets[key][0]


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whatever tensors it holds."""
    file = OpenFile(path)
    try:
        return read_header(
            file.name, file.size, lambda start, count: file.bytes_at(start, count).tobytes()
        ).metadata
    finally:
        file.close()


def _open_regular(path: Path, name: str) -> BinaryIO:
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    try:
        descriptor = os.open(path, flags)  # a pipe that nobody writes to would block without O_NONBLOCK
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise MergeError(f"{name} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MergeError(f"{name} is not a regular file but a folder, a pipe or a device. Give a model file.")
    return os.fdopen(descriptor, "rb", buffering=0)


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What changes whenever a file is written to or replaced."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


_HASHES: dict[tuple, str] = {}


class TensorCheckpoint:
    """Tensors in memory, or computed when they are read, as a checkpoint."""

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
