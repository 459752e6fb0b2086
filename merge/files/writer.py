"""Writing a checkpoint that is computed while it is written: no tensor is held, no half file is left.

Tensors that stay A's are copied by the operating system, in long stretches and by one thread: two that write to one file
slow each other down. The other threads compute meanwhile.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .atomic import Target, appearing
from .checkpoint import Checkpoint, Stored
from .header import NAMES, parse_header
from .kinds import AS_IT_IS, Naming
from .packed import Packed

CHUNK = 1 << 20  # elements of one piece of work: 2 MB in half precision
PAGE = 4096
STRETCH = 16 << 20  # bytes copied at a time, between two looks whether to stop
Tick = Callable[[int], None]
Task = Callable[[], int]  # a part of the work; returns the number of bytes written
Metadata = Callable[[bool, Tick], Mapping[str, str]]  # final or not, and a callback that may raise to stop


@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of a tensor, and where their bytes go in the data section."""

    key: str
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Stretch:
    """Bytes of an open file that are copied unchanged to ``offset`` in the data section."""

    source: Stored
    offset: int
    count: int

    def reaches(self, other: "Stretch") -> bool:
        """Whether ``other`` follows at once, in the file and in the data section."""
        return (
            self.source.file is other.source.file
            and self.source.offset + self.count == other.source.offset
            and self.offset + self.count == other.offset
        )

    def parts(self) -> "Iterator[Stretch]":
        """The same in parts of at most STRETCH bytes; all but the first begin with a page of the file."""
        start = 0
        while start < self.count:
            place = self.source.offset + start
            count = min(-place % PAGE or STRETCH, self.count - start)
            yield Stretch(replace(self.source, offset=place), self.offset + start, count)
            start += count


@dataclass(frozen=True)
class FileLayout:
    """Where every tensor goes: widest dtypes first, then by name, so that each tensor is aligned."""

    offsets: Mapping[str, tuple[int, int]]
    total: int

    @classmethod
    def of(cls, checkpoint: Packed) -> "FileLayout":
        """The layout depends on keys, dtypes and shapes alone, never on the order of the sources."""
        entries = checkpoint.entries
        offsets, end = {}, 0
        for key in sorted(entries, key=lambda key: (-entries[key].dtype.itemsize, key)):
            offsets[key] = (end, end + entries[key].nbytes)
            end += entries[key].nbytes
        return cls(offsets, end)

    def header(
        self, checkpoint: Packed, metadata: Mapping[str, str], room: int = 0, naming: Naming = AS_IT_IS
    ) -> bytes:
        """The file's first bytes: length and JSON, padded with spaces to ``room`` or a multiple of 8."""
        table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        names = naming.give_back(self.offsets)
        for key, span in self.offsets.items():
            entry = checkpoint.entries[key]
            table[names[key]] = {
                "dtype": NAMES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": list(span),
            }
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode()
        text += b" " * (room - 8 - len(text) if room else -len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def pieces(self, checkpoint: Packed, order: list[str], chunk: int) -> Iterator[Piece]:
        """The work, tensor by tensor; tensors that cannot be divided are one piece."""
        for key in order:
            entry, begin = checkpoint.entries[key], self.offsets[key][0]
            step = checkpoint.step(key, chunk)
            for start in range(0, entry.numel, step):
                yield Piece(key, start, min(start + step, entry.numel), begin + start * entry.dtype.itemsize)

    def stretches(self, stored: Mapping[str, Stored]) -> Iterator[Stretch]:
        """The stretches to copy: tensors that are in a file already; neighbours in both files are one stretch."""
        last: Stretch | None = None
        for key in sorted(stored, key=lambda key: self.offsets[key]):
            begin, end = self.offsets[key]
            here = Stretch(stored[key], begin, end - begin)
            if last and last.reaches(here):
                last = replace(last, count=last.count + here.count)
                continue
            if last:
                yield from last.parts()
            last = here
        if last:
            yield from last.parts()


def write(
    inner: Checkpoint,
    path: Path,
    metadata: Metadata,
    *,
    replace_existing: bool = True,
    ready: Callable[[], None] = lambda: None,
    naming: Naming = AS_IT_IS,
    threads: int = 0,
    chunk: int = CHUNK,
    order: list[str] | None = None,
    begin: int = 0,
    tick: Tick = lambda done: None,
) -> None:
    """Write the checkpoint ``inner`` to ``path``: to a file without a name, which gets its name at the end.

    ``metadata(False, ...)`` gives a stand-in as long as the final metadata; ``metadata(True, tick)`` may take its
    time: it runs beside the merge. ``ready`` may still raise just before the file gets its name. ``begin`` is where
    the tensors begin in A's file: the header is padded so that they lie alike in the pages of both, which halves
    the cost of copying. ``tick`` is given bytes written and may raise to stop. The bytes do not depend on
    ``threads``, ``chunk`` or ``order``. MergeError when the disk is full, or when no program could read the result.
    """
    checkpoint = Packed(inner)
    layout = FileLayout.of(checkpoint)
    draft = layout.header(checkpoint, metadata(False, lambda done: None), naming=naming)
    parse_header(path.name, draft[8:], len(draft))
    room = len(draft)
    if begin % 8 == 0:
        room += (begin - room) % PAGE
    stopped = threading.Event()

    def go_on(done: int) -> None:
        if stopped.is_set():
            raise InterruptedError("the merge was stopped")

    with (
        appearing(path, room + layout.total, replace=replace_existing, ready=ready) as target,
        ThreadPoolExecutor(1) as beside,
    ):
        final = beside.submit(metadata, True, go_on)
        try:
            keys = checkpoint.order(inner.entries if order is None else order)
            _write_tensors(checkpoint, layout, target, room, threads, chunk, keys, tick)
            while not final.done():
                wait([final], timeout=0.1)
                tick(0)
        finally:
            stopped.set()
        header = layout.header(checkpoint, final.result(), room, naming)
        if len(header) != room:
            raise AssertionError("the header changed its length while the tensors were written")
        target.put(header, 0)


def _write_tensors(
    checkpoint: Packed,
    layout: FileLayout,
    target: Target,
    room: int,
    threads: int,
    chunk: int,
    order: list[str],
    tick: Tick,
) -> None:
    """Copy what is in a file already, and compute the rest."""
    found = {key: checkpoint.stored(key) for key in order}
    stored = {key: place for key, place in found.items() if place is not None}
    changed = [key for key, place in found.items() if place is None]

    def put(piece: Piece, data: Tensor) -> None:
        target.put(_raw(data), room + piece.offset)

    work(
        computing(checkpoint, layout.pieces(checkpoint, changed, chunk), put),
        threads or default_threads(),
        tick,
        apart=(partial(target.copy, s.source, s.count, room + s.offset) for s in layout.stretches(stored)),
    )


def default_threads() -> int:
    """As many as there are processors, at most four: beyond that the disk is the limit."""
    return max(2, min(4, os.cpu_count() or 1))


def computing(
    checkpoint: Packed, pieces: Iterator[Piece], put: Callable[[Piece, Tensor], None]
) -> Iterator[Task]:
    """A job for each piece: read and compute it, and put it away."""

    def compute(piece: Piece) -> int:
        put(piece, checkpoint.read(piece.key, piece.start, piece.stop))
        return (piece.stop - piece.start) * checkpoint.entries[piece.key].dtype.itemsize

    return (partial(compute, piece) for piece in pieces)


def work(jobs: Iterator[Task], threads: int, tick: Tick, *, apart: Iterable[Task] = ()) -> None:
    """Run jobs in several threads, so that while one waits for the disk another computes.

    One thread takes those ``apart`` first, all by itself, and then helps the others.
    """
    lock, stop, done = threading.Lock(), threading.Event(), list[int]()

    def take(queue: Iterator[Task]) -> Task | None:
        with lock:
            return None if stop.is_set() else next(queue, None)

    def worker(*queues: Iterator[Task]) -> None:
        for queue in queues:
            while job := take(queue):
                moved = job()
                with lock:
                    done.append(moved)

    with ThreadPoolExecutor(threads) as pool:
        futures = [
            pool.submit(worker, iter(apart), jobs),
            *(pool.submit(worker, jobs) for _ in range(threads - 1)),
        ]
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
