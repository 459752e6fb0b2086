"""Images of finished cells, which a sweep takes when it is expanded again: ComfyUI's cache drops what a prompt did not use.

The images of a cell are found by a digest of everything that they are computed from: the nodes above the sweep with
their inputs, ComfyUI's own word on whether they changed, the size and time of the files that they name, and the nodes
of the cell.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context

from .graph import Graph

LIMIT = 1 << 30  # bytes of images
EXPANSIONS = 16  # whose grids have not run, such as those of stopped sweeps


@dataclass
class Expansion:
    """One expansion of a sweep: the digest of each image, in order, and what the node shows when its grid is done."""

    keys: list[str | None] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)


_KEPT: OrderedDict[str, torch.Tensor] = OrderedDict()
_RUNNING: OrderedDict[str, Expansion] = OrderedDict()


def expand(prompt: Any, links: Mapping[str, Any], prefix: str, grid: str) -> "tuple[Expansion, Finder]":
    """A new expansion whose results the node ``grid`` gets, and what finds the finished image of a part of its graph."""
    expansion = Expansion()
    _RUNNING[grid] = expansion
    while len(_RUNNING) > EXPANSIONS:
        _RUNNING.popitem(last=False)
    above = _digest(_above(prompt, links.values()), prefix)

    def find(part: Graph) -> torch.Tensor | None:
        own = list(part.values())
        files = [_files(node["inputs"].values()) for node in own]
        key = None if above is None else _digest([above, own, files], prefix)
        expansion.keys.append(key)
        if key is None or key not in _KEPT:
            return None
        _KEPT.move_to_end(key)
        return _KEPT[key]

    return expansion, find


Finder = Callable[[Graph], torch.Tensor | None]


def finish(images: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Keep the images that the running grid has got; what is put into the answer, the sweep shows from then on."""
    context = get_executing_context()
    expansion = _RUNNING.pop(context.node_id, None) if context else None
    if expansion is None:
        return {}
    if len(images) == len(expansion.keys):
        for key, image in zip(expansion.keys, images, strict=True):
            if key is not None:
                _KEPT[key] = image
                _KEPT.move_to_end(key)
    held = sum(image.nbytes for image in _KEPT.values())
    while held > LIMIT:
        held -= _KEPT.popitem(last=False)[1].nbytes
    return expansion.shown


def forget() -> None:
    """Drop all images."""
    _KEPT.clear()
    _RUNNING.clear()


def _above(prompt: Any, links: Any) -> dict[str, Any]:
    """Every node above the links: its class, inputs, files, and what its fingerprint says."""
    found: dict[str, Any] = {}
    waiting = [link[0] for link in links if is_link(link)]
    while waiting:
        name = waiting.pop()
        if name in found or not prompt.has_node(name):
            continue
        node = prompt.get_node(name)
        inputs = node["inputs"]
        found[name] = [node["class_type"], inputs, node.get("is_changed"), _files(inputs.values())]
        waiting += [value[0] for value in inputs.values() if is_link(value)]
    return found


def _files(values: Any) -> list[tuple[str, int, int]]:
    found = []
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) < 300 or "." not in value or "\n" in value:
            continue
        for folder in folder_paths.folder_names_and_paths:
            path = folder_paths.get_full_path(folder, value)
            if path:
                status = Path(path).stat()
                found.append((path, status.st_size, status.st_mtime_ns))
    return found


def _digest(thing: Any, prefix: str) -> str | None:
    """None for what cannot be compared: a NaN (a node that is new each time), or an object."""
    try:
        text = json.dumps(thing, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return hashlib.sha256(text.replace(prefix, "").encode()).hexdigest()
