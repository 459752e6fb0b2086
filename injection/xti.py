"""Extended textual inversion (XTI, P+ arXiv 2303.09522): one token embedding per cross-attention layer of SD1.

Four ways to write one are read:

=========================  ==============================================================  ==================
kohya-ss/sd-scripts        ``IN01 IN02 IN04 ... OUT11``, each ``vectors 768``                  .safetensors, .pt
cloneofsimo/promptplusplus ``<name-layer-vector>`` 768, and ``<name>`` common to all layers  .safetensors
mkshing/prompt-plus        ``<name>-layer`` 768                                            .bin
textual inversion          one embedding, the same in all layers                           all of them
=========================  ==============================================================  ==================

Layers are numbers 0..15 in running order. Keys are sorted as numbers: files list them as text (0, 1, 10, 11 ...).
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..blocks.walk import Block, UNetBlocks, numbered

LAYERS = (
    *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"),
    *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
)
PROMPTPLUSPLUS = re.compile(r"<(.+)-(\d+)-(\d+)>$")
PROMPT_PLUS = re.compile(r"(<.+>|[^<>]+)-(\d+)$")


def _sd1_blocks() -> UNetBlocks:
    """SD1's U-Net, which the format is made for, so that layers can be named without a model at hand."""
    down = [
        Block("input", n, int(n % 3 > 0 and n < 9), 64 >> max(0, n - 1) // 3, f"down_blocks.{(n - 1) // 3}.attentions.{(n - 1) % 3}")
        for n in range(12)
    ]  # fmt: skip
    up = [
        Block("output", n, int(n > 2), 8 << n // 3, f"up_blocks.{n // 3}.attentions.{n % 3}")
        for n in range(12)
    ]
    middle = Block("middle", 0, 1, 8, "mid_block.attentions.0")
    return UNetBlocks(tuple(numbered([*down, middle, *up])), 64, 768)


SD1 = _sd1_blocks()


class XTIError(ValueError):
    """A file that is no (whole) extended textual inversion; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class XTI:
    """A concept: for each of the 16 layers its token embeddings ``vectors dim``.

    ``common`` is a further token that stands before them in every layer (promptplusplus), ``origin`` the kind
    of file it came from.
    """

    name: str
    layers: tuple[Tensor, ...]
    common: Tensor | None = None
    origin: str = "kohya"

    def tokens(self, layer: int) -> Tensor:
        """All token embeddings of a layer, the common one first: ``vectors dim``."""
        own = self.layers[layer]
        return own if self.common is None else torch.cat([self.common, own])


def load(path: Path, name: str = "") -> XTI:
    """Read a file of any of the four kinds; ``name`` is the token, by default the file's stem.

    Pickles are read with ``weights_only``. Raises XTIError.
    """
    try:
        if path.suffix == ".safetensors":
            data: Any = load_file(path)
        else:
            data = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise XTIError(
            f"{path.name} cannot be read ({error}). If it is a pickle with code in it, convert it to safetensors."
        ) from error
    return read(data, name or path.stem, path.name)


def read(data: Any, name: str, what: str = "the file") -> XTI:
    """An XTI from a file's dictionary; XTIError says which keys are missing or odd."""
    if not isinstance(data, Mapping):
        raise XTIError(f"{what} holds a {type(data).__name__}, not a dictionary of embeddings.")
    if any(key in LAYERS for key in data):
        return XTI(name, _kohya(data, what), origin="kohya")
    if matches := [match for key in data if (match := PROMPTPLUSPLUS.match(key))]:
        return _promptplusplus(data, matches, name, what)
    if matches := [match for key in data if (match := PROMPT_PLUS.match(key))]:
        by_layer = {int(match.group(2)): data[match.string] for match in matches}
        _complete(set(by_layer), 16, what, "layer")
        layers = tuple(_vectors(by_layer[layer], what) for layer in range(16))
        return XTI(name, layers, origin="prompt-plus")
    return XTI(name, (_plain(data, what),) * 16, origin="textual inversion")


def is_xti(data: Any) -> bool:
    """Whether a file's dictionary holds an embedding per layer, of which other loaders take one only."""
    return isinstance(data, Mapping) and any(
        key in LAYERS or PROMPTPLUSPLUS.match(key) or PROMPT_PLUS.match(key) for key in data
    )


def save(xti: XTI, path: Path) -> None:
    """Write kohya's keys as safetensors (the common token, if any, first in every layer), whole or not at all.

    A file that already says the same is left; XTIError when it says something else.
    """
    tensors = {layer: xti.tokens(i).float().contiguous() for i, layer in enumerate(LAYERS)}
    if path.exists():
        there = load_file(path)
        if there.keys() == tensors.keys() and all(torch.equal(there[key], tensors[key]) for key in tensors):
            return
        raise XTIError(f"{path.name} exists and holds another embedding. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, part, metadata={"format": "pt", "xti": xti.origin})
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def mix(first: XTI, second: XTI, from_second: Sequence[int]) -> XTI:
    """Style mixing: the layers ``from_second`` of the second concept, the others of the first, under its name.

    P+ takes geometry from layers 5 and 6 (IN08, MID) of one concept and appearance from the rest of another.
    """
    chosen = set(from_second)
    common = first.common
    if chosen and not _same(first.common, second.common):
        common = None  # each layer then carries the common token of the concept it is from
    parts = ((second if layer in chosen else first) for layer in range(16))
    if common is None:
        layers = tuple(part.tokens(layer) for layer, part in enumerate(parts))
    else:
        layers = tuple(part.layers[layer] for layer, part in enumerate(parts))
    return replace(first, layers=layers, common=common, origin="mix")


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


def _kohya(data: Mapping[str, Any], what: str) -> tuple[Tensor, ...]:
    if missing := [layer for layer in LAYERS if layer not in data]:
        raise XTIError(
            f"{what} lacks the layers {', '.join(missing)}; an XTI has all 16: {', '.join(LAYERS)}."
        )
    return tuple(_vectors(data[layer], what) for layer in LAYERS)


def _promptplusplus(data: Mapping[str, Any], matches: Sequence[re.Match[str]], name: str, what: str) -> XTI:
    names = {match.group(1) for match in matches}
    if len(names) > 1:
        raise XTIError(
            f"{what} holds several concepts ({', '.join(sorted(names))}); one per file is expected."
        )
    found = {(int(match.group(2)), int(match.group(3))): data[match.string] for match in matches}
    _complete({layer for layer, _ in found}, 16, what, "layer")
    layers = []
    for layer in range(16):
        numbers = {vector for one, vector in found if one == layer}
        _complete(numbers, len(numbers), what, f"vector of layer {layer}")
        layers.append(torch.cat([_vectors(found[layer, number], what) for number in sorted(numbers)]))
    shared = data.get(f"<{names.pop()}>")
    common = None if shared is None else _vectors(shared, what)
    return XTI(name, tuple(layers), common, "promptplusplus")


def _plain(data: Mapping[str, Any], what: str) -> Tensor:
    if "clip_g" in data:
        raise XTIError(f"{what} is an SDXL embedding (clip_g); extended textual inversion is SD1's.")
    if isinstance(params := data.get("string_to_param"), Mapping):
        data = params
    tensors = [value for value in data.values() if isinstance(value, Tensor) and value.is_floating_point()]
    if len(tensors) != 1:
        raise XTIError(
            f"{what} is none of the kinds known (kohya, promptplusplus, prompt-plus, textual inversion): "
            f"it holds {', '.join(map(repr, list(data)[:5]))}{' ...' if len(data) > 5 else ''}."
        )
    return _vectors(tensors[0], what)


def _complete(numbers: set[int], count: int, what: str, kind: str) -> None:
    if missing := sorted(set(range(count)) - numbers):
        raise XTIError(f"{what} lacks {kind} {', '.join(map(str, missing))} of 0..{count - 1}.")
    if extra := sorted(numbers - set(range(count))):
        raise XTIError(f"{what} has {kind} {', '.join(map(str, extra))}, beyond 0..{count - 1}.")


def _vectors(value: Any, what: str) -> Tensor:
    """One or several token embeddings as ``vectors dim``, fp32."""
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.numel():
        raise XTIError(
            f"{what}: expected embeddings of shape (vectors, width) or (width), got {getattr(value, 'shape', value)!r}."
        )
    return value.detach().reshape(-1, value.shape[-1]).float()
