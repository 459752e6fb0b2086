"""A LoRA on the layers of a model: core reads the file and names the model's keys; the block is that of the key.

Core's ``load_lora`` returns patches by model key for every trainer's naming and every adapter type, so no table of
names is needed here, and slices of fused layers keep their places.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import torch
from comfy.model_patcher import get_key_weight

from ...blocks.keymap import block_of
from ...blocks.keys import MODEL, is_quantised
from ...blocks.names import NO_LAYOUT, BlockError, Layout, layout_of
from ..errors import MergeError
from .host_files import LoraFile, unreadable
from .names import TEXTS, own_names
from .shapes import fits


@dataclass
class Placed:
    """The patches of a LoRA for one MODEL and CLIP: key -> patch, the block of each key, names that fit nothing."""

    layout: Layout
    names: dict[str, Any]  # core's map of LoRA module names to keys
    patches: dict[Any, Any]
    blocks: dict[Any, str | None]  # None: text encoder, or in no block
    is_text: dict[Any, bool]
    not_loaded: list[str] = field(default_factory=list)
    naming: Mapping[str, str] | None = None  # how the file writes its blocks, where no model gives the names

    @property
    def untouched(self) -> list[str]:
        """The blocks of the model that have no patch."""
        touched = set(self.blocks.values())
        return [block for block in self.layout.blocks if block not in touched]


def place(file: LoraFile, model: Any, clip: Any = None, key_map: str = "mbw") -> Placed:
    """Read the patches of a file for a MODEL and an optional CLIP; MergeError when nothing fits.

    Without a MODEL the layers and blocks are those that the file's own names tell.
    """
    if model is None:
        return _by_own_names(file, key_map)
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    of_model = set(names.values())
    if clip is not None:
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    known = _known(model) | (_known(clip.patcher) if clip is not None else {})
    found = load(file, names)
    there = {key: patch for key, patch in found.items() if tensor_name(key) in known}
    patches = {key: patch for key, patch in there.items() if _fits(patch, key, known)}
    if not patches:
        example = next(iter(file.tensors), "no tensors")
        raise MergeError(
            f"{file.name} has no tensors {'of the shapes of' if there else 'for'} this model (first name: {example}). "
            f"Use a LoRA that was trained for {type(model.model).__name__}"
            f"{'.' if clip is not None else ', or connect the clip if this is a LoRA of a text encoder.'}"
        )
    layout = layout_of_model(model)
    keys = {key: tensor_name(key) for key in patches}
    inside = {key: keys[key].startswith(MODEL) or key in of_model for key in patches}
    blocks = {
        key: block_of(keys[key], layout, key_map) if inside[key] and layout is not NO_LAYOUT else None
        for key in patches
    }
    missing = [name for name in file.tensors if module_of(name, names) is None]
    missing += [str(key) for key in found if key not in there]
    missing += [f"{tensor_name(key)} (another shape)" for key in there if key not in patches]
    return Placed(layout, names, patches, blocks, {key: not inside[key] for key in patches}, missing)


def _by_own_names(file: LoraFile, key_map: str) -> Placed:
    own = own_names(file.tensors)
    patches = load(file, own.keys)
    texts = {own.keys[module] for module in own.texts}
    if (not own.has_blocks and not patches.keys() <= texts) or not patches:
        example = next((name for name in file.tensors if not name.startswith(TEXTS)), "no tensors")
        raise MergeError(
            f"The names in {file.name} do not tell the blocks of its layers (first name: {example}). Without a model, names "
            "with the numbers of known blocks are expected. Connect the model that the LoRA is for."
        )
    is_text = {key: key in texts for key in patches}
    blocks = {
        key: None if is_text[key] or not own.has_blocks else block_of(key, own.layout, key_map)
        for key in patches
    }
    missing = [name for name in file.tensors if module_of(name, own.keys) is None]
    return Placed(own.layout, dict(own.keys), patches, blocks, is_text, missing, own.naming)


def load(file: LoraFile, names: Mapping[str, Any]) -> dict[Any, Any]:
    """Core's patches for the layers of these names."""
    try:
        return comfy.lora.load_lora(file.tensors, names, log_missing=False)
    except Exception as error:  # a layer without its other half, an alpha that is not one number
        raise unreadable(file.name, error) from error


def tensor_name(key: Any) -> str:
    """The name of the tensor that a patch changes, whole or a slice of it."""
    return key if isinstance(key, str) else key[0]


def _known(patcher: Any) -> dict[str, torch.Tensor]:
    """A model's tensors by key; of quantised weights the weight itself, which has not always the shape of its codes."""
    state = patcher.model_state_dict()
    if not any(map(is_quantised, state)):
        return state
    return {key: get_key_weight(patcher.model, key)[0] for key in state if not is_quantised(key)}


def _fits(patch: Any, key: Any, known: Mapping[str, torch.Tensor]) -> bool:
    """Whether a patch has the shape of its tensor."""
    shape = list(known[tensor_name(key)].shape)
    if not isinstance(key, str) and key[1] is not None:
        dimension, _, length = key[1]
        shape[dimension] = length
    return fits(patch, shape)


def layout_of_model(model: Any) -> Layout:
    """The blocks of a MODEL, read off its keys; no blocks where it has none."""
    try:
        return layout_of(model.model_state_dict(MODEL))
    except BlockError:
        return NO_LAYOUT


def placed_modules(placed: Placed) -> dict[str, Any]:
    """Core's names of the modules that have patches -> the key of the patch, that of the bias where only that has one."""
    found = {}
    for module, key in placed.names.items():
        bias = key.removesuffix(".weight") + ".bias" if isinstance(key, str) else None
        if key in placed.patches or bias in placed.patches:
            found[module] = key if key in placed.patches else bias
    return found


def module_of(name: str, names: Mapping[str, Any]) -> str | None:
    """The module (one of core's LoRA names) that a tensor of the file belongs to."""
    if name.endswith(("_lora.up.weight", "_lora.down.weight")):
        stem = name.rpartition("_lora.")[0]
        if stem in names:
            return stem
    stem = name
    while "." in stem:
        stem = stem.rpartition(".")[0]
        if stem in names:
            return stem
    return None
