"""Writing a checkpoint that is computed while it is written: no tensor is held, no half file is left."""

import errno
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import NAMES, Checkpoint
from .errors import MergeError

CHUNK = 1 << 20  # elements of one piece of work: 2 MB in half precision
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of a tensor, and where their bytes go in the data section."""

    key: str
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """Where every tensor goes: widest dtypes first, then by name, so that each tensor is aligned."""

    offsets: Mapping[str, tuple[int, int]]
    total: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Layout":
        """The layout depends on keys, dtypes and shapes alone, never on the order of the sources."""
        entries = checkpoint.entries
        offsets, end = {}, 0
        for key in sorted(entries, key=lambda key: (-entries[key].dtype.itemsize, key)):
            offsets[key] = (end, end + entries[key].nbytes)
            end += entries[key].nbytes
        return cls(offsets, end)

    def header(self, checkpoint: Checkpoint, metadata: Mapping[str, str], room: int = 0) -> bytes:
        """The file's first bytes: length and JSON, padded with spaces to ``room`` or a multiple of 8."""
        table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        for key, span in self.offsets.items():
            entry = checkpoint.entries[key]
            table[key] = {
                "dtype": NAMES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": list(span),
            }
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode()
        text += b" " * (room - 8 - len(text) if room else -len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def pieces(self, checkpoint: Checkpoint, order: list[str], chunk: int) -> Iterator[Piece]:
        """The work, tensor by tensor; tensors that cannot be divided are one piece."""
        for key in order:
            entry, begin = checkpoint.entries[key], self.offsets[key][0]
            step = chunk if checkpoint.divisible(key) else max(1, entry.numel)
            for start in range(0, entry.numel, step):
                yield Piece(key, start, min(start + step, entry.numel), begin + start * entry.dtype.itemsize)


def write(
    checkpoint: Checkpoint,
    path: Path,
    metadata: Callable[[bool], Mapping[str, str]],
    *,
    threads: int = 0,
    chunk: int = CHUNK,
    order: list[str] | None = None,
    tick: Tick = lambda done: None,
) -> None:
    """Write ``checkpoint`` to ``path`` under a temporary name, then rename.

    ``metadata(False)`` gives a stand-in at least as long as the real thing, ``metadata(True)``, which may take
    its time: it runs beside the merge. ``tick`` is told bytes written and may raise to stop. The bytes do
    not depend on ``threads``, ``chunk`` or ``order``. MergeError when the disk is full.
    """
    layout = Layout.of(checkpoint)
    room = len(layout.header(checkpoint, metadata(False)))
    with _replacing(path, room + layout.total) as target, ThreadPoolExecutor(1) as beside:
        final = beside.submit(metadata, True)
        pieces = layout.pieces(checkpoint, order or list(layout.offsets), chunk)

        def put(piece: Piece, data: Tensor) -> None:
            target.put(_raw(data), room + piece.offset)

        def copy(piece: Piece) -> bool:
            found, entry = checkpoint.stored(piece.key), checkpoint.entries[piece.key]
            first, last = (place * entry.dtype.itemsize for place in (piece.start, piece.stop))
            return found is not None and target.copy(
                found.descriptor, found.offset + first, room + piece.offset, last - first
            )

        work(checkpoint, pieces, put, threads or default_threads(), tick, copy)
        header = layout.header(checkpoint, final.result(), room)
        if len(header) != room:
            raise AssertionError("the header changed its length while the tensors were written")
        target.put(header, 0)


def default_threads() -> int:
    """As many as there are processors, at most four: beyond that the disk is the limit."""
    return max(2, min(4, os.cpu_count() or 1))


def work(
    checkpoint: Checkpoint,
    pieces: Iterator[Piece],
    put: Callable[[Piece, Tensor], None],
    threads: int,
    tick: Tick,
    copy: Callable[[Piece], bool] = lambda piece: False,
) -> None:
    """Read, compute and put away pieces in several threads: while one waits for the disk another computes.

    A piece that ``copy`` takes care of is not read.
    """
    lock, stop = threading.Lock(), threading.Event()

    def worker() -> None:
        while not stop.is_set():
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            if not copy(piece):
                put(piece, checkpoint.read(piece.key, piece.start, piece.stop))
            with lock:
                done.append((piece.stop - piece.start) * checkpoint.entries[piece.key].dtype.itemsize)

    done: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(worker) for _ in range(threads)]
        try:
            while True:
                finished, waiting = wait(futures, timeout=0.1, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                with lock:
                    moved, done[:] = sum(done), []
                tick(moved)
                if not waiting:
                    return
        finally:
            stop.set()


def _raw(data: Tensor) -> memoryview:
    return data.contiguous().view(-1).view(torch.uint8).numpy().data


class _Target:
    """A file written by position, with disk errors in plain words."""

    def __init__(self, descriptor: int, path: Path, size: int):
        self.descriptor, self.path, self.size = descriptor, path, size
        self._lock = threading.Lock()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError as error:
            raise self._failed(error) from error

    def put(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += self._write(view[done:], offset + done)
        except OSError as error:
            raise self._failed(error) from error

    def copy(self, source: int, start: int, offset: int, count: int) -> bool:
        """Copy bytes from another file inside the system; False where it cannot, and they have to be read."""
        done = 0
        while hasattr(os, "copy_file_range") and done < count:
            try:
                moved = os.copy_file_range(source, self.descriptor, count - done, start + done, offset + done)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
                    raise self._failed(error) from error
                return False
            if moved == 0:
                return False
            done += moved
        return done == count

    def _write(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.descriptor, view, offset)
        with self._lock:  # no positioned writes on this system
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.write(self.descriptor, view)

    def _failed(self, error: OSError) -> MergeError:
        return MergeError(
            f"cannot write {self.path.name} ({self.size / 1e9:.2f} GB): {error.strerror}. "
            "Free some space or choose another folder; nothing was left behind."
        )


@contextmanager
def _replacing(path: Path, size: int) -> Iterator[_Target]:
    """A nameless file that gets its name when all went well.

    Where the system has nameless files even a killed process leaves nothing; elsewhere a hidden ``.part``
    file beside the target is removed on any error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor, nameless = _open(path, part)
    try:
        yield _Target(descriptor, path, size)
        if nameless:
            _give_name(descriptor, part)
        else:
            os.close(descriptor)
            descriptor = -1
        part.replace(path)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        part.unlink(missing_ok=True)


def _open(path: Path, part: Path) -> tuple[int, bool]:
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # a file system without them
            return os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666), True
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    return os.open(part, flags, 0o666), False


def _give_name(descriptor: int, part: Path) -> None:
    """link(2) through /proc; a directory descriptor makes Python follow the link there."""
    folder = os.open(part.parent, os.O_RDONLY)
    try:
        os.link(
            f"/proc/self/fd/{descriptor}",
            part.name,
            src_dir_fd=folder,
            dst_dir_fd=folder,
            follow_symlinks=True,
        )
    finally:
        os.close(folder)
