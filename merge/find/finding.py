"""Which share of which candidate is in each block of a merged file, all files read once, piece by piece."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ...blocks.keymap import block_of
from ...blocks.keys import EMA, OTHER, TEXT, VAE_PART, part_of
from ...blocks.names import BASE, CLIP, NO_LAYOUT, T5, VAE, BlockError, Layout, layout_of
from ..errors import MergeError
from ..files.checkpoint import Checkpoint
from .nearest import Nearest, nearest_methods
from .solve import CHUNK, Shares, Sums, products, solve, tensor_sums

READ = 1 << 20  # elements read at a time: short reads from several files in turn are slow on a disk
PIECE = 1 << 18  # elements in one piece of work
LEAST, MOST = 2, 7
THREADS = min(8, 2 * (os.cpu_count() or 1))  # twice the cores: some read while others compute
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Found:
    """The shares per block, the tensors that could not be used with the reason, the nearest methods where no shares fit."""

    merge: str
    candidates: tuple[str, ...]
    layout: Layout
    key_map: str
    dtype: torch.dtype
    blocks: dict[str, Shares]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, int] = field(default_factory=dict)
    nearest: tuple[Nearest, ...] = ()


def find_recipe(
    merge: Checkpoint, candidates: Sequence[Checkpoint], key_map: str = "mbw", tick: Tick = lambda done: None
) -> Found:
    """The shares of two to seven candidates in each block of ``merge``; text encoder and VAE are blocks of their own.

    ``tick`` is told the bytes of the merge looked at. MergeError for another number of candidates, models of other
    layouts, and models without common tensors.
    """
    if not LEAST <= len(candidates) <= MOST:
        raise MergeError(f"{len(candidates)} candidates are given. Give {LEAST} to {MOST} model files.")
    layout = _common_layout([merge, *candidates])
    left_out: dict[str, list[str]] = {}
    places = dict(_places(merge, candidates, layout, key_map, left_out))
    if not places:
        names = ", ".join(candidate.name for candidate in candidates)
        raise MergeError(
            f"{merge.name} has no tensors in common with all of {names}. "
            "Give candidates of the same kind of model as the merge."
        )
    sums: dict[str, Sums] = {}
    with closing(_all_sums(merge, candidates, list(places))) as all_sums:  # no thread reads after an error
        for key, found in all_sums:
            sums.setdefault(places[key], Sums.empty(len(candidates))).add(found)
            tick(merge.entries[key].nbytes)
    order = [BASE, CLIP, T5, *layout.blocks, VAE]
    names = sorted(sums, key=lambda name: order.index(name) if name in order else len(order))
    blocks = {name: solve(sums[name]) for name in names}
    return Found(
        merge.name,
        tuple(candidate.name for candidate in candidates),
        layout,
        key_map,
        _dtype(merge, places),
        blocks,
        left_out,
        {name: sums[name].odd for name in names if sums[name].odd},
        nearest_methods(merge, candidates, places, blocks),
    )


def _places(
    merge: Checkpoint,
    candidates: Sequence[Checkpoint],
    layout: Layout,
    key_map: str,
    left_out: dict[str, list[str]],
) -> Iterator[tuple[str, str]]:
    """The tensors that all files have, each with its block."""
    for key, entry in merge.entries.items():
        if not entry.dtype.is_floating_point or part_of(key) in (EMA, OTHER) or not entry.numel:
            continue
        block = _block(key, layout, key_map)
        if block is None:
            left_out.setdefault("never merged under this key map", []).append(key)
            continue
        for candidate in candidates:
            other = candidate.entries.get(key)
            if other is None or other.shape != entry.shape or not other.dtype.is_floating_point:
                why = "not in" if other is None else "other shape in"
                left_out.setdefault(f"{why} {candidate.name}", []).append(key)
                break
        else:
            yield key, block


def _block(key: str, layout: Layout, key_map: str) -> str | None:
    part = part_of(key)
    if part == VAE_PART:
        return VAE
    if part == TEXT:
        return T5 if not layout.is_unet and "t5" in key.partition(".transformer.")[0] else CLIP
    return block_of(key, layout, key_map) if layout.blocks else BASE


def _all_sums(
    merge: Checkpoint, candidates: Sequence[Checkpoint], keys: list[str]
) -> Generator[tuple[str, Sums], None, None]:
    """The sums of every tensor in the order of the keys; a few tensors are read at once."""
    waiting = iter(keys)
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="find_recipe")
    try:
        running = [
            (key, pool.submit(_tensor, merge, candidates, key)) for key in islice(waiting, 4 * THREADS)
        ]
        while running:
            key, future = running.pop(0)
            yield key, future.result()
            running += [
                (later, pool.submit(_tensor, merge, candidates, later)) for later in islice(waiting, 1)
            ]
    finally:
        pool.shutdown(cancel_futures=True)


def _tensor(merge: Checkpoint, candidates: Sequence[Checkpoint], key: str) -> Sums:
    models = [*candidates, merge]
    stored = merge.entries[key]
    kind = torch.float64 if stored.dtype.itemsize > 2 and stored.quantised is None else torch.float32
    divisible = all(model.divisible(key) for model in models)
    step = READ if divisible else stored.numel
    width = -(-min(step, PIECE, stored.numel) // CHUNK) * CHUNK
    columns = torch.zeros(len(models), width, dtype=kind)
    givers = [reader(model, key, step) for model in models]
    gram = torch.zeros(len(models), len(models), dtype=torch.float64)
    odd = 0
    for start in range(0, stored.numel, step):
        read = [give(start, min(start + step, stored.numel)) for give in givers]
        for parts in zip(*(tensor.split(PIECE) for tensor in read), strict=True):
            found, left = _piece(parts, columns)
            gram += found
            odd += left
    return tensor_sums(gram, [model.entries[key] for model in models], stored.numel - odd, odd, kind)


def reader(model: Checkpoint, key: str, most: int) -> Callable[[int, int], Tensor]:
    """Gives elements of a tensor, up to ``most`` at once; they hold until the next call where they are in a file as they are.

    One buffer for all of them: new memory for each costs as much as reading from the system's cache.
    """
    stored, dtype = model.stored(key), model.entries[key].dtype
    if stored is None:
        return lambda start, stop: model.read(key, start, stop)
    size = dtype.itemsize
    buffer = np.empty(min(most, model.entries[key].numel) * size, dtype=np.uint8)

    def read(start: int, stop: int) -> Tensor:
        raw = buffer[: (stop - start) * size]
        stored.read_into(raw, start * size)
        return torch.from_numpy(raw).view(dtype)

    return read


def _piece(parts: Sequence[Tensor], columns: Tensor) -> tuple[Tensor, int]:
    """``Z^T Z`` of a piece, and how many elements NaN or infinity left out; ``columns`` is room for it."""
    count = len(parts[0])
    used = columns[:, : -(-count // CHUNK) * CHUNK]
    used[:, count:] = 0
    for row, part in zip(used[:, :count], parts, strict=True):
        row.copy_(part)
    used[1:] -= used[0]
    found = products(used)
    if found.isfinite().all():
        return found, 0
    exact = torch.stack([part.double() for part in parts])  # products that float32 cannot hold, or no numbers
    good = exact.isfinite().all(0)
    exact = exact[:, good]
    exact[1:] -= exact[0].clone()
    return products(exact), int((~good).sum())


def _common_layout(models: Sequence[Checkpoint]) -> Layout:
    layouts = [(model, layout) for model in models if (layout := _layout(model)) is not None]
    for model, layout in layouts[1:]:
        first, wanted = layouts[0]
        if layout != wanted:
            raise MergeError(
                f"{first.name} is {wanted.describe()}, {model.name} is {layout.describe()}. They have no blocks in "
                "common. Give models of one architecture."
            )
    return layouts[0][1] if layouts else NO_LAYOUT


def _layout(model: Checkpoint) -> Layout | None:
    try:
        return layout_of(model.entries)
    except BlockError:
        return None


def _dtype(merge: Checkpoint, keys: Mapping[str, str]) -> torch.dtype:
    """The data type of most elements of the merge."""
    counts: dict[torch.dtype, int] = {}
    for key in keys:
        entry = merge.entries[key]
        counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.numel
    return max(counts, key=lambda dtype: counts[dtype])
