"""Quantised weights of a file as tensors: how each is read, what becomes of it in a merge, and what a report says."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..quantised.formats import FP8_SCALED, SCALE, Format
from ..report import letter
from .header import Entry

DESCRIPTION = "comfy_quant"
SMOOTHING = "pre_quant_scale"  # of the layer's input, not of its weight


@dataclass(frozen=True)
class Part:
    """One stored tensor of a quantised weight: its dtype and shape, and its bytes where it is in a file."""

    entry: Entry
    place: Any = None  # Stored

    def read(self) -> Tensor:
        """The whole tensor."""
        return self.bytes(0, self.entry.nbytes).view(self.entry.dtype).view(self.entry.shape)

    def bytes(self, first: int, count: int) -> Tensor:
        """Some of its bytes."""
        return torch.frombuffer(self.place.read(first, count), dtype=torch.uint8)


@dataclass(frozen=True)
class Quantised:
    """How a weight is stored: format, ComfyUI's description of it, codes, scales, and what is beside them.

    ``kept``: codes and scales of the result are these, byte for byte; else they are computed anew in this format.
    ``taken``: the values are looked at before they are used, as of any tensor of another model.
    """

    format: Format
    description: bytes
    codes: Part
    scales: Mapping[str, Part]
    beside: Mapping[str, Part]
    kept: bool = True
    taken: bool = False

    def parts(self) -> dict[str, Part]:
        """Every stored tensor by the last word of its key."""
        text = Entry(torch.uint8, (len(self.description),))
        return {"weight": self.codes, **self.scales, **self.beside, DESCRIPTION: Part(text)}

    def rounding(self, shape: tuple[int, ...], squared_length: float) -> float:
        """The largest squared length of the error that rounding this weight to its codes can make."""
        scales = {word: part.read() for word, part in self.scales.items()}
        smoothing = self.smoothing()
        largest = 1.0 if smoothing is None else float(smoothing.abs().max())
        return self.format.rounding(scales, shape, squared_length, largest)

    def smoothing(self) -> Tensor | None:
        """What the layer's input is multiplied by, per column of the weight."""
        return (
            self.beside[SMOOTHING].read().to(torch.float32).reshape(1, -1)
            if SMOOTHING in self.beside
            else None
        )

    def read(self, shape: tuple[int, ...], start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the weight, float32, from the bytes in the file."""
        width = shape[-1] if shape else 1
        first, last = start // width, -(-stop // width)
        stored = self.format.stored_width(width) * self.codes.entry.dtype.itemsize
        codes = self.codes.bytes(first * stored, (last - first) * stored).view(self.codes.entry.dtype)
        codes = codes.view(last - first, -1)
        scales = {name: part.read() for name, part in self.scales.items()}
        values = self.format.decode(codes, self.format.steps(scales, first, (last - first, width)))
        smoothing = self.smoothing()
        if smoothing is not None:
            values = values * smoothing
        return values.reshape(-1)[start - first * width : stop - first * width]


def fp8_scaled(shape: tuple[int, ...]) -> Quantised:
    """The form of a weight that is to be written as fp8_scaled."""
    text = json.dumps({"format": FP8_SCALED.name}).encode()
    codes, scale = Part(Entry(FP8_SCALED.codes, shape)), Part(Entry(torch.float32, ()))
    return Quantised(FP8_SCALED, text, codes, {SCALE: scale}, {}, kept=False)


def remade(entry: Entry, taken: Entry | None = None) -> Entry:
    """An entry with codes and scales to be computed, or those of ``taken`` where that has the same format."""
    form, other = entry.quantised, taken.quantised if taken else None
    if form is None:
        return entry
    if other is not None and other.format == form.format:
        return replace(entry, quantised=replace(other, taken=True))
    scales = {word: _of_new_scales(part) for word, part in form.scales.items()}
    return replace(entry, quantised=replace(form, scales=scales, kept=False))


def _of_new_scales(part: Part) -> Part:
    """New scales are float32 where A's are float16 or bfloat16, which small scales would be 0 in."""
    if part.entry.dtype.itemsize == 1:
        return part
    return Part(Entry(torch.float32, part.entry.shape))


def remarks(sources: Sequence[Mapping[str, Entry]], result: Mapping[str, Entry]) -> Iterator[str]:
    """What a report says about quantised weights: those of the sources, and what becomes of them."""
    for number, entries in enumerate(sources):
        if found := Counter(shown(entry) for entry in entries.values() if entry.quantised):
            yield f"{letter(number)} is quantised ({_counted(found)}). Its weights are merged in float32."
    kept, fresh, converted = Counter[str](), Counter[str](), Counter[str]()
    for key, entry in result.items():
        before = sources[0].get(key)
        if entry.quantised:
            (kept if entry.quantised.kept else fresh)[shown(entry)] += 1
        elif before is not None and before.quantised:
            converted[f"{shown(before)} to {str(entry.dtype).removeprefix('torch.')}"] += 1
    if kept:
        yield f"Codes and scales copied byte for byte: {_counted(kept)}."
    if fresh:
        yield f"Quantised with new scales: {_counted(fresh)}."
    if converted:
        yield f"Converted: {_counted(converted)}."


def shown(entry: Entry) -> str:
    """The name of the form of a quantised weight in file names and reports."""
    assert entry.quantised is not None
    form = entry.quantised.format
    if form.name == "int8_tensorwise":
        return "int8_convrot" if form.group else "int8"
    return {"float8_e4m3fn": "fp8_scaled", "float8_e5m2": "fp8_e5m2 scaled"}.get(form.name, form.name)


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{count} tensors {what}" for what, count in sorted(found.items()))
