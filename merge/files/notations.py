"""Reading which weights of a file are quantised, and how; what cannot be read is an error that names it.

ComfyUI has three notations for the same thing: a ``comfy_quant`` tensor of JSON beside each weight, the same JSON of
all layers in the metadata (``_quantization_metadata``), and the older ``scaled_fp8`` mark with ``scale_weight``.
Merges see one tensor per weight, and write the first notation. Source: comfy.utils.convert_old_quants and
_load_quantized_module of comfy.ops.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...blocks.keys import is_quantised
from ..errors import MergeError
from ..quantised.formats import (
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
from .header import Entry
from .quantised import DESCRIPTION, SMOOTHING, Part, Quantised

MARK, INPUT_SCALE = "scaled_fp8", "input_scale"
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
                if _OLD.get(word) in parts:
                    raise refusal(name, f"{layer}.{word}", f"{_OLD[word]} is there as well")
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
            raise refusal(name, key, _why_left(key, rest))
    return {key: found.get(key, entry) for key, entry in rest.items()}


def _why_left(key: str, rest: Mapping[str, Entry]) -> str:
    """What is missing where a scale of ComfyUI's notations, or integer codes, belong to no quantised weight."""
    layer, _, word = key.rpartition(".")
    if word not in (SCALE, SCALE_2, SMOOTHING, "scale_weight", "weight"):
        return ""
    if f"{layer}.weight" not in rest:
        return "the weight it belongs to is missing"
    return "its format is not described"


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
                raise refusal(name, key, f"it is not a text of at most {LARGEST_DESCRIPTION} bytes")
            text = _json(name, key, bytes(stored(key).read(0, entry.nbytes)))
            found.setdefault(key.removesuffix(f".{DESCRIPTION}"), text)  # core prefers the other notations
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
    entries = {word: part.entry for word, part in scales.items()}
    form = _format(description, entries.get(SCALE))
    kind = str(description.get("format"))[:40].encode("ascii", "backslashreplace").decode()
    if form is None:
        raise refusal(name, key, f"format {kind}")
    shape = form.shape(codes.entry.shape)
    if why := _misfit(form, codes.entry, shape, entries):
        raise refusal(name, key, f"format {kind}, {why}")
    if SMOOTHING in beside and (why := _unusable(beside[SMOOTHING], shape)):
        raise refusal(name, key.removesuffix("weight") + SMOOTHING, why)
    text = json.dumps(description).encode()
    return Entry(torch.float32, shape, Quantised(form, text, codes, scales, beside))


def _format(description: dict[str, Any], scale: Entry | None) -> Format | None:
    """The format that a description names."""
    kind = description.get("format")
    more = description.get("params")
    more = {**(more if isinstance(more, dict) else {}), **description}
    turned = kind == "convrot_w4a4" or (kind == "int8_tensorwise" and more.get("convrot"))
    group = more.get("convrot_groupsize", 256) if turned else 0
    if not isinstance(group, int) or (group and not is_size(group)) or "num_experts" in more:
        return None
    per_row = bool(group) or (scale is not None and scale.numel != 1)
    if isinstance(kind, str) and kind in _FP8:
        return (RowSteps if per_row else OneStep)(kind, _FP8[kind])
    if kind == "int8_tensorwise":
        return (RowSteps if per_row else OneStep)(kind, torch.int8, group)
    if kind == "convrot_w4a4":
        return FourBitRows(kind, torch.int8, group)
    if kind == "mxfp8":
        return BlockSteps(kind, torch.float8_e4m3fn)
    return FourBitBlocks(kind, torch.uint8) if kind == "nvfp4" else None


def _misfit(form: Format, codes: Entry, shape: tuple[int, ...], scales: Mapping[str, Entry]) -> str:
    """Why codes and scales are not what a format needs; empty where they are."""
    if codes.dtype != form.codes:
        return f"its codes are {_name(codes.dtype)} and not {_name(form.codes)}"
    if len(shape) < 2 or 0 in shape or (form.group and shape[-1] % form.group):
        return f"its weight has the shape {list(shape)}"
    if SCALE not in scales:
        return f"its {SCALE} is missing"
    for word, entry in scales.items():
        small = isinstance(form, BlockSteps) and word == SCALE
        if (entry.dtype.itemsize == 1) != small or not (small or entry.dtype.is_floating_point):
            return f"its {word} is {_name(entry.dtype)}"
    if not form.fits(shape, {word: entry.shape for word, entry in scales.items()}):
        sides = " and ".join(f"{word} {list(entry.shape)}" for word, entry in scales.items())
        return f"a weight of the shape {list(shape)} with {sides}"
    return ""


def _unusable(smoothing: Part, shape: tuple[int, ...]) -> str:
    """Why a weight cannot be divided by what its input is multiplied by; empty where it can."""
    entry = smoothing.entry
    if len(shape) != 2 or entry.numel not in (1, shape[1]) or not entry.dtype.is_floating_point:
        return (
            f"{_name(entry.dtype)} of the shape {list(entry.shape)} for a weight of the shape {list(shape)}"
        )
    values = smoothing.read().to(torch.float32)
    return "" if bool((values.isfinite() & (values != 0)).all()) else "it holds 0, NaN or infinity"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
