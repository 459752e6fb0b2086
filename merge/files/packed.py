"""A checkpoint as the tensors of a file: a quantised weight becomes codes, scales and ComfyUI's description of both.

Scales depend on the largest values of a weight, so that a merged weight is computed twice, in pieces: once for the
scales, once for the codes. No weight is held whole unless its method needs that.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor

from .checkpoint import Checkpoint, Stored
from .header import Entry
from .quantised import DESCRIPTION, Quantised

CHUNK = 1 << 20  # elements computed at a time while scales are measured
REMEMBERED = 32  # weights whose new scales are kept in memory; pieces of one weight come together


class Packed:
    """``inner`` as a file holds it, read in pieces from any number of threads."""

    def __init__(self, inner: Checkpoint):
        self.inner, self.name = inner, inner.name
        self._names: dict[str, list[str]] = {}
        self._weights: dict[str, str] = {}
        self.entries: dict[str, Entry] = {}
        self._scales: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock, self._measuring = threading.Lock(), dict[str, threading.Lock]()
        for key, entry in inner.entries.items():
            if entry.quantised is None:
                self._names[key] = [key]
                self.entries[key] = entry
                continue
            stem = key.removesuffix("weight")
            for word, part in entry.quantised.parts().items():
                self.entries[stem + word] = part.entry
                self._weights[stem + word] = key
                self._names.setdefault(key, []).append(stem + word)
            self._measuring[key] = threading.Lock()

    def order(self, keys: Iterable[str]) -> list[str]:
        """The keys of a file in the order of the weights they belong to."""
        return [name for key in keys for name in self._names[key]]

    def step(self, key: str, count: int) -> int:
        """How many elements a piece of about ``count`` has: whole rows of a quantised weight."""
        entry = self.entries[key]
        if key not in self._weights:
            return count if self.inner.divisible(key) else max(1, entry.numel)
        if not key.endswith("weight") or not self.inner.divisible(self._weights[key]):
            return max(1, entry.numel)
        width = entry.shape[-1]
        return max(1, count // width) * width

    def stored(self, key: str) -> Stored | None:
        """Where the bytes of a tensor are in a file; None where it is computed."""
        if key not in self._weights:
            return self.inner.stored(key)
        word, quantised = self._part(key)
        if word == DESCRIPTION or quantised.taken:
            return None
        return quantised.parts()[word].place if quantised.kept or word in quantised.beside else None

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements [start, stop) of a tensor; of codes, whole rows."""
        if key not in self._weights:
            return self.inner.read(key, start, stop)
        word, quantised = self._part(key)
        entry, weight = self.entries[key], self._weights[key]
        stop = entry.numel if stop is None else stop
        if word == DESCRIPTION:
            return torch.frombuffer(bytearray(quantised.description), dtype=torch.uint8)[start:stop]
        if word == "weight":
            return self._codes(weight, quantised, start, stop)
        if quantised.kept or word in quantised.beside:
            return quantised.parts()[word].read().reshape(-1)[start:stop]
        return self._fresh(weight, quantised)[word].view(entry.dtype).reshape(-1)[start:stop]

    def _part(self, key: str) -> tuple[str, Quantised]:
        weight = self._weights[key]
        quantised = self.inner.entries[weight].quantised
        assert quantised is not None
        return key[len(weight.removesuffix("weight")) :], quantised

    def _codes(self, weight: str, quantised: Quantised, start: int, stop: int) -> Tensor:
        shape, stored = self.inner.entries[weight].shape, quantised.codes.entry
        first, last = start // stored.shape[-1], -(-stop // stored.shape[-1])
        values = None
        if not quantised.kept or quantised.taken:
            values = self._values(
                weight, quantised, first, last
            )  # looked at, also where the codes are copied
        if values is None or quantised.kept:
            width = stored.dtype.itemsize
            return quantised.codes.bytes(start * width, (stop - start) * width).view(stored.dtype)
        steps = quantised.format.steps(self._fresh(weight, quantised), first, (last - first, shape[-1]))
        return quantised.format.encode(values, steps).reshape(-1)

    def _values(self, weight: str, quantised: Quantised, first: int, last: int) -> Tensor:
        """Rows of a weight as the layer holds them: without what multiplies its input."""
        width = self.inner.entries[weight].shape[-1]
        values = self.inner.read(weight, first * width, last * width).to(torch.float32).view(-1, width)
        smoothing = quantised.smoothing()
        return values if smoothing is None else values / smoothing

    def _fresh(self, weight: str, quantised: Quantised) -> dict[str, Tensor]:
        """New scales of a weight, measured over all of it once."""
        with self._measuring[weight]:
            with self._lock:
                if weight in self._scales:
                    self._scales.move_to_end(weight)
                    return self._scales[weight]
            entry = self.inner.entries[weight]
            rows = entry.numel // entry.shape[-1]
            step = max(1, CHUNK // entry.shape[-1]) if self.inner.divisible(weight) else rows
            measures = [
                quantised.format.measure(self._values(weight, quantised, row, min(row + step, rows)))
                for row in range(0, rows, step)
            ]
            found = quantised.format.fresh(quantised.format.joined(measures))
            with self._lock:
                self._scales[weight] = found
                while len(self._scales) > REMEMBERED:
                    self._scales.popitem(last=False)
            return found
