"""Quantised weights of a file as tensors: which there are, how each is read, and what of the file cannot be read.

ComfyUI has three notations for the same thing: a ``comfy_quant`` tensor of JSON beside each weight, the same JSON of
all layers in the metadata (``_quantization_metadata``), and the older ``scaled_fp8`` mark with ``scale_weight``.
Merges see one tensor per weight, and write the first notation. Source: comfy.utils.convert_old_quants and
_load_quantized_module of comfy.ops.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...blocks.keys import is_quantised
from ..errors import MergeError
from ..quantised.formats import (
    FP8_SCALED,
    SCALE,
    SCALE_2,
    BlockSteps,
    Format,
    FourBitBlocks,
    FourBitRows,
    OneStep,
    RowSteps,
)
from ..quantised.rotation import is_size
from ..report import letter
from .header import Entry

DESCRIPTION, MARK = "comfy_quant", "scaled_fp8"
INPUT_SCALE, SMOOTHING = "input_scale", "pre_quant_scale"  # of the layer's input, not of its weight
METADATA = "_quantization_metadata"
LARGEST_DESCRIPTION = 1 << 16  # bytes
_OLD = {"scale_weight": SCALE, "scale_input": INPUT_SCALE}
_FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
_MAKERS = {
    "absmax": "bitsandbytes", "nested_absmax": "bitsandbytes", "quant_map": "bitsandbytes",
    "nested_quant_map": "bitsandbytes", "SCB": "bitsandbytes", "qweight": "GPTQ, AWQ or SVDQuant",
    "qzeros": "GPTQ or AWQ", "weight_scale_inv": "another program",
}  # fmt: skip
ADVICE = "Use the fp16, bf16 or fp8_scaled file of this model."
Place = Callable[[int, int], memoryview]  # first byte, count -> bytes of one tensor


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
        stored = self.format.stored_shape((width,))[0] * self.codes.entry.dtype.itemsize
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
    return replace(entry, quantised=replace(form, kept=False))


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


def with_quantised(
    name: str, entries: Mapping[str, Entry], metadata: Mapping[str, str], stored: Callable[[str], Any]
) -> dict[str, Entry]:
    """The tensors of a file with every quantised weight as one float32 tensor.

    ``stored`` gives the place of a tensor in the file. MergeError where a weight is quantised in a form that cannot be
    read, naming it.
    """
    rest = dict(entries)
    found: dict[str, Entry] = {}
    for layer, description in _descriptions(name, entries, metadata, stored).items():
        key = f"{layer}.weight"
        parts = {}
        for word in (SCALE, SCALE_2, INPUT_SCALE, SMOOTHING, *_OLD, DESCRIPTION):
            if (entry := rest.pop(f"{layer}.{word}", None)) is not None and word != DESCRIPTION:
                parts[_OLD.get(word, word)] = Part(entry, stored(f"{layer}.{word}"))
        if key not in rest:
            raise refusal(name, f"{layer}.{DESCRIPTION}", "the weight it describes is missing")
        codes = Part(rest[key], stored(key))
        found[key] = _entry(name, key, codes, parts, description)
    for key in list(rest):
        word = key.rpartition(".")[2]
        if word == MARK:
            del rest[key]
        elif (word not in (INPUT_SCALE, "scale_input") and is_quantised(key)) or (
            word == "weight" and key not in found and rest[key].dtype in (torch.uint8, torch.int8)
        ):
            raise refusal(name, key)
    return {key: found.get(key, entry) for key, entry in rest.items()}


def refusal(name: str, key: str, why: str = "") -> MergeError:
    """The error for weights that are quantised in a form that cannot be read."""
    maker = _MAKERS.get(key.rpartition(".")[2], "bitsandbytes" if ".quant_state." in key else "")
    who = f" of {maker}" if maker else ""
    reason = f": {why}" if why else ""
    return MergeError(
        f"{name} is quantised in a form{who} that cannot be read ({key}{reason}). Unquantised files and ComfyUI's formats "
        f"(fp8_scaled, int8, nvfp4, mxfp8, convrot_w4a4) are expected. {ADVICE}"
    )


def _descriptions(
    name: str, entries: Mapping[str, Entry], metadata: Mapping[str, str], stored: Callable[[str], Any]
) -> dict[str, dict[str, Any]]:
    """ComfyUI's description of every quantised layer, from all three notations."""
    found: dict[str, dict[str, Any]] = {}
    if METADATA in metadata:
        layers = _json(name, METADATA, metadata[METADATA].encode()).get("layers")
        if not isinstance(layers, dict) or not all(isinstance(value, dict) for value in layers.values()):
            raise refusal(name, METADATA, "it has no table of layers")
        found |= {layer: value for layer, value in layers.items() if f"{layer}.weight" in entries}
    else:
        for mark in (key for key in entries if key.rpartition(".")[2] == MARK):
            whole = {"full_precision_matrix_mult": True} if entries[mark].numel == 2 else {}
            prefix = mark.removesuffix(MARK)
            for key in entries:
                layer = key.removesuffix(".scale_weight")
                if layer != key and key.startswith(prefix) and f"{layer}.weight" in entries:
                    kinds = (
                        form for form, dtype in _FP8.items() if dtype == entries[f"{layer}.weight"].dtype
                    )
                    found[layer] = {"format": next(kinds, "unknown"), **whole}
    for key, entry in entries.items():
        if key.endswith(f".{DESCRIPTION}"):
            if entry.dtype != torch.uint8 or entry.nbytes > LARGEST_DESCRIPTION:
                raise refusal(name, key)
            text = bytes(stored(key).read(0, entry.nbytes))
            found[key.removesuffix(f".{DESCRIPTION}")] = _json(name, key, text)
    return found


def _json(name: str, key: str, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.decode())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise refusal(name, key, "it is not a JSON object")
    return found


def _entry(name: str, key: str, codes: Part, parts: dict[str, Part], description: dict[str, Any]) -> Entry:
    """A quantised weight as one float32 tensor."""
    scales = {word: part for word, part in parts.items() if word in (SCALE, SCALE_2)}
    beside = {word: part for word, part in parts.items() if word not in scales}
    form = _format(description, codes.entry, {word: part.entry for word, part in scales.items()})
    if form is None:
        raise refusal(name, key, f"format {str(description.get('format'))[:40]}")
    shape = form.shape(codes.entry.shape)
    if SMOOTHING in beside and (len(shape) != 2 or beside[SMOOTHING].entry.numel not in (1, shape[1])):
        raise refusal(name, key.removesuffix("weight") + SMOOTHING)
    text = json.dumps(description).encode()
    return Entry(torch.float32, shape, Quantised(form, text, codes, scales, beside))


def _format(description: dict[str, Any], codes: Entry, scales: Mapping[str, Entry]) -> Format | None:
    """The format that a description names, if codes and scales are what it says."""
    kind = description.get("format")
    more = description.get("params")
    more = {**(more if isinstance(more, dict) else {}), **description}
    group = more.get("convrot_groupsize", 256) if more.get("convrot") or kind == "convrot_w4a4" else 0
    if not isinstance(group, int) or (group and not is_size(group)) or "num_experts" in more:
        return None
    scale = scales.get(SCALE)
    per_row = bool(group) or (scale is not None and scale.numel != 1)
    form: Format | None = None
    if kind in _FP8:
        form = (RowSteps if per_row else OneStep)(kind, _FP8[kind])
    elif kind == "int8_tensorwise":
        form = (RowSteps if per_row else OneStep)(kind, torch.int8, group)
    elif kind == "convrot_w4a4":
        form = FourBitRows(kind, torch.int8, group)
    elif kind == "mxfp8":
        form = BlockSteps(kind, torch.float8_e4m3fn)
    elif kind == "nvfp4":
        form = FourBitBlocks(kind, torch.uint8)
    if form is None or codes.dtype != form.codes:
        return None
    shape = form.shape(codes.shape)
    fits = form.fits(shape, {word: entry.shape for word, entry in scales.items()})
    whole = not group or (len(shape) == 2 and shape[1] % group == 0)
    small = isinstance(form, BlockSteps) and scale is not None and scale.dtype.itemsize != 1
    return form if fits and whole and not small and 0 not in shape else None
