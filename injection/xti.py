"""Files of extended textual inversion (XTI): one token embedding per cross-attention layer.

Read are:

=========================  ==============================================================  ==================
kohya-ss/sd-scripts        ``IN01 IN02 IN04 ... OUT11``, each ``vectors 768``                  .safetensors, .pt
cloneofsimo/promptplusplus ``<name-layer-vector>`` 768, and ``<name>`` common to all layers  .safetensors
mkshing/prompt-plus        ``<name>-layer`` 768                                            .bin
textual inversion          one embedding, the same in all layers                           all of them
SDXL                       ``clip_l.IN04 ... clip_l.OUT05``, ``clip_g.IN04 ...``, 11 each      .safetensors, .pt
=========================  ==============================================================  ==================

Layers are numbers 0..15 in running order (SDXL: 0..10). Keys are sorted as numbers: files list them as text (0, 1,
10, 11 ...). SDXL's keys are ours: kohya's and P+'s trainers know SD1 only. A plain SDXL embedding is read as well.
"""

import collections
import itertools
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..blocks.synced import write_synced
from .concept import LAYERS, SDXL_LAYERS, XTI, XTIError
from .concept import SD1 as SD1  # scripts name the layout here

PROMPTPLUSPLUS = re.compile(r"<(.+)-(\d{1,4})-(\d{1,4})>$")
PROMPT_PLUS = re.compile(r"(<.+>|[^<>]+)-(\d{1,4})$")
TOKEN = "token"  # the metadata key of the token's name
SDXL_ENCODERS = tuple(
    tuple(f"{encoder}.{layer}" for layer in SDXL_LAYERS) for encoder in ("clip_l", "clip_g")
)
SDXL_KEYS = {key for keys in SDXL_ENCODERS for key in keys}


def load(path: Path, name: str = "") -> XTI:
    """Read a file of any of the four kinds; ``name`` is the token, by default the one the file was saved with, or
    the file's stem.

    Pickles are read with ``weights_only``. Raises XTIError.
    """
    saved = ""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                saved = (file.metadata() or {}).get(TOKEN, "")
                data: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        else:
            data = read_pickle(path)
    except Exception as error:
        raise XTIError(
            f"{path.name} cannot be read as an embedding file ({_first_line(error)}). Use a file in the safetensors "
            "format, or a pickle that holds tensors only."
        ) from error
    return read(data, name or saved or path.stem, path.name)


def read_pickle(path: Path) -> Any:
    """The dictionary of a pickled embedding; only tensors and plain Python objects are built, nothing is run."""
    plain = [torch.nn.ParameterDict, torch.nn.Parameter, torch.nn.ParameterList]
    with torch.serialization.safe_globals([*plain, collections.OrderedDict, set]):
        return torch.load(path, weights_only=True, map_location="cpu")


def read(data: Any, name: str, what: str = "the file") -> XTI:
    """An XTI from a file's dictionary; XTIError says which keys are missing or odd."""
    if not isinstance(data, Mapping):
        raise XTIError(f"{what} holds a {type(data).__name__}, and a dictionary of embeddings is expected.")
    data = {key: value for key, value in data.items() if isinstance(key, str)}
    if any(key in LAYERS for key in data):
        xti = XTI(name, _by_layer(data, LAYERS, what), origin="kohya")
    elif any(key in SDXL_KEYS for key in data):
        small, large = (_by_layer(data, keys, what) for keys in SDXL_ENCODERS)
        xti = XTI(name, small, origin="SDXL", large=large)
    elif set(data) == {"clip_l", "clip_g"}:
        small, large = ((_vectors(data[key], what),) * len(SDXL_LAYERS) for key in ("clip_l", "clip_g"))
        xti = XTI(name, small, origin="textual inversion", large=large)
    elif matches := [match for key in data if (match := PROMPTPLUSPLUS.match(key))]:
        xti = _promptplusplus(data, matches, name, what)
    elif stems := _numbered(data):
        if len(stems) > 1:
            raise XTIError(_several(stems, what))
        by_layer = next(iter(stems.values()))
        _complete(set(by_layer), 16, what, "layer")
        layers = tuple(_vectors(data[by_layer[layer]], what) for layer in range(16))
        xti = XTI(name, layers, origin="prompt-plus")
    else:
        xti = XTI(name, (_plain(data, what),) * 16, origin="textual inversion")
    return _checked(xti, what)


def is_xti(data: Any) -> bool:
    """Whether a file's dictionary holds an embedding per layer, of which other loaders take one only."""
    if not isinstance(data, Mapping):
        return False
    keys = [key for key in data if isinstance(key, str)]
    known = {*LAYERS, *SDXL_KEYS}
    return any(key in known or PROMPTPLUSPLUS.match(key) for key in keys) or bool(_numbered(keys))


def save(xti: XTI, path: Path) -> Path:
    """Write kohya's keys (SDXL: ours) as safetensors, the common token first in every layer, whole or not at all.

    The token's name goes into the metadata. Where ``path`` or a numbered name after it (``name_00001_``) holds the
    same already, that file is returned; where it holds something else, the next free number is taken.
    """
    tensors = {
        key: tokens.float().clone(memory_format=torch.contiguous_format) for key, tokens in _rows(xti).items()
    }
    metadata = {"format": "pt", "xti": xti.origin, TOKEN: xti.name}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        write_synced(tensors, part, metadata)
        for number in itertools.count():
            target = path if number == 0 else path.with_stem(f"{path.stem}_{number:05}_")
            try:
                _place(part, target)
            except FileExistsError:
                if not _says(target, tensors, xti.name):
                    continue
            return target
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError  # the loop above ends by a return


def _place(part: Path, target: Path) -> None:
    """Give a finished file its name; FileExistsError where the name is taken."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: take the name first
        target.touch(exist_ok=False)
        part.replace(target)


def _says(path: Path, tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether a file holds these tensors under this token."""
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            same_name = (file.metadata() or {}).get(TOKEN, name) == name
            return (
                same_name
                and keys == set(tensors)
                and all(torch.equal(file.get_tensor(key), tensors[key]) for key in keys)
            )
    except Exception:
        return False


def _numbered(keys: Iterable[str]) -> dict[str, dict[int, str]]:
    """Names that prompt-plus writes, with their keys by layer: ``cat-0 .. cat-15``; a lone number is a plain name."""
    found: dict[str, dict[int, str]] = {}
    for key in keys:
        if match := PROMPT_PLUS.match(key):
            found.setdefault(match.group(1), {})[int(match.group(2))] = key
    return {stem: layers for stem, layers in found.items() if len(layers) > 1}


def _several(names: Iterable[str], what: str) -> str:
    shown = ", ".join(sorted(names))
    return (
        f"{what} holds several concepts ({shown}), and one per file is expected. Save each to its own file."
    )


def _checked(xti: XTI, what: str) -> XTI:
    """The same, or an XTIError that names a layer of another width or with numbers that are not finite."""
    rows = _rows(xti)
    for encoder in range(len(xti.widths)):
        own = {key: xti.tokens(number, encoder).shape[1] for number, key in enumerate(xti.keys)}
        if len(set(own.values())) > 1:
            given = ", ".join(f"{layer}: {width}" for layer, width in own.items())
            raise XTIError(f"{what} has layers of different widths ({given}). All must have one width.")
    if uneven := [
        key for key, one, two in zip(xti.keys, xti.layers, xti.large, strict=False) if len(one) != len(two)
    ]:
        raise XTIError(
            f"{what} has another number of vectors for clip_l than for clip_g in {', '.join(uneven)}."
        )
    if wrong := [layer for layer, tokens in rows.items() if not bool(tokens.isfinite().all())]:
        raise XTIError(
            f"{what} has numbers that are not finite in {', '.join(wrong)}. The training went wrong there."
        )
    return xti


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:120]


def _rows(xti: XTI) -> dict[str, Tensor]:
    """The token embeddings under the keys of a file."""
    encoders = SDXL_ENCODERS if xti.large else (LAYERS,)
    return {
        key: xti.tokens(layer, encoder)
        for encoder, keys in enumerate(encoders)
        for layer, key in enumerate(keys)
    }


def _by_layer(data: Mapping[str, Any], keys: Sequence[str], what: str) -> tuple[Tensor, ...]:
    if missing := [key for key in keys if key not in data]:
        raise XTIError(
            f"{what} lacks the layers {', '.join(missing)}; an XTI has all {len(keys)}: {', '.join(keys)}."
        )
    return tuple(_vectors(data[key], what) for key in keys)


def _promptplusplus(data: Mapping[str, Any], matches: Sequence[re.Match[str]], name: str, what: str) -> XTI:
    names = {match.group(1) for match in matches}
    if len(names) > 1:
        raise XTIError(_several(names, what))
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
        raise XTIError(
            f"{what} holds {', '.join(map(repr, data))}: an embedding of CLIP-G, and for SDXL both clip_l and clip_g are "
            "needed. Use an embedding for SDXL or SD1."
        )
    if isinstance(params := data.get("string_to_param"), Mapping | torch.nn.ParameterDict):
        data = dict(params.items())
    tensors = [value for value in data.values() if isinstance(value, Tensor) and value.is_floating_point()]
    if len(tensors) != 1:
        raise XTIError(
            f"{what} holds {', '.join(map(repr, list(data)[:5]))}{' ...' if len(data) > 5 else ''}, which is not a "
            "known kind of embedding. Available: kohya, promptplusplus, prompt-plus, textual inversion."
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
            f"{what} holds {getattr(value, 'shape', type(value).__name__)!r} where embeddings of shape (vectors, width) or "
            "(width) are expected."
        )
    return value.detach().reshape(-1, value.shape[-1]).float()
