"""LoRAs of a recipe: placed on the tensors of a checkpoint file, and added as core adds them to a loaded model.

Core names the layers of a model, not of a file. The model is built on the meta device, from the names and shapes of
the file; the text encoders' tensors are followed through core's own conversion, by the number of each row.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import comfy.lora
import comfy.model_detection
import folder_paths
import torch
from torch import Tensor

from ...blocks.host import own_presets
from ...blocks.keys import CHECKPOINT, MODEL, part_of
from ...blocks.keys import TEXT as TEXT_PART
from ..errors import MergeError
from ..files.checkpoint import Checkpoint
from ..recipe.lora_term import lora_text
from ..recipe.model import Line, LoraTerm
from ..recipe.names import match_name
from .host import Settings, block_weights, report, weight_of
from .host_files import FOLDER, open_lora, stamp
from .host_place import Placed, place, tensor_name
from .weights import written_out

META = torch.device("meta")
ROWS = 1 << 32  # more than a tensor has


class Rows(NamedTuple):
    """Where a tensor of a loaded model is in a file: the key, and its rows there."""

    key: str
    start: int
    count: int


class Names:
    """A MODEL or CLIP as ``place`` looks at it: core's model, and the tensors by key."""

    def __init__(self, model: Any, tensors: Mapping[str, Tensor]):
        self.model, self.tensors = model, tensors
        self.cond_stage_model, self.patcher = model, self  # as a CLIP has them

    def model_state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        return {key: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


class Baked:
    """A LoRA on the tensors of a checkpoint file (see ``merge.files.added``)."""

    def __init__(self, patches: Mapping[str, list[tuple[Rows, list[Any], str]]], words: str, weights: str):
        self.patches, self.report, self.weights = patches, words, weights
        self.keys = patches.keys()

    def apply(self, key: str, weight: Tensor) -> Tensor:
        """A whole tensor, float32, with the LoRA; ``weight`` is overwritten."""
        for rows, patches, name in self.patches[key]:
            part = weight[rows.start : rows.start + rows.count] if weight.ndim else weight
            part.copy_(comfy.lora.calculate_weight(patches, part.clone(), name))
        return weight


class Loras:
    """The LoRA files that ComfyUI lists (see ``merge.files.added``); for one run of a recipe."""

    def __init__(self):
        self._models: dict[Checkpoint, tuple[Names, Names | None, dict[str, Rows]]] = {}

    def find(self, name: str) -> Path:
        """The file that a recipe means by ``name``, of ComfyUI's folder loras; MergeError lists what there is."""
        return Path(stamp(_listed(name))[0])

    def place(self, name: str, term: LoraTerm, line: Line, source: Checkpoint) -> Baked:
        """The LoRA on the first model of a line; MergeError where it does not fit or changes what the file lacks."""
        file = open_lora(_listed(name))
        if source not in self._models:
            self._models[source] = _model(source)
        model, clip, where = self._models[source]
        placed = place(file, model, clip, line.key_map)
        weights, elemental = block_weights(
            placed, term.weights, Settings(seed=line.seed, key_map=line.key_map)
        )
        found = {key: weight_of(placed, key, weights, elemental) for key in placed.patches}
        patches: defaultdict[str, list[tuple[Rows, list[Any], str]]] = defaultdict(list)
        for tensor, found_patches in _patches(placed, found, term.strength).items():
            rows, known = where.get(tensor), model.tensors.get(tensor, clip and clip.tensors.get(tensor))
            shape = comfy.lora.calculate_shape(found_patches, known, tensor)
            if rows is None or known is None or tuple(shape) != tuple(known.shape):
                raise MergeError(
                    f"{source.name} holds {tensor} in another form than a loaded model, so {file.name} cannot be added to "
                    "the file. Load the model, use Load LoRA by Block, and save it with ComfyUI's Save Checkpoint."
                )
            patches[rows.key].append((rows, found_patches, tensor))
        words = report(file, placed, found, weights, elemental).replace("\n", "\n  ")
        return Baked(
            patches, f"{lora_text(term)}: {words}", written_out(term.weights, placed.layout, own_presets())
        )


def _listed(name: str) -> str:
    return match_name(name, folder_paths.get_filename_list(FOLDER), "LoRA")


def _patches(placed: Placed, found: Mapping[Any, float], strength: float) -> dict[str, list[Any]]:
    """The patches of each tensor, as core's ``add_patches`` lists them."""
    patches: defaultdict[str, list[Any]] = defaultdict(list)
    for key, weight in found.items():
        if weight and strength:
            offset, function, *_ = (None, None) if isinstance(key, str) else (*key[1:], None)
            patches[tensor_name(key)].append((strength * weight, placed.patches[key], 1.0, offset, function))
    return patches


def _model(source: Checkpoint) -> tuple[Names, Names | None, dict[str, Rows]]:
    """The model of a file without its values, its text encoders, and where each of their tensors is in the file."""
    # One element that is shown as many: core looks at a value where it guesses the dtype of Z-Image.
    shown = {
        key: torch.zeros((), dtype=entry.dtype).expand(entry.shape) for key, entry in source.entries.items()
    }
    config: Any = comfy.model_detection.model_config_from_unet(shown, CHECKPOINT)
    if config is None:
        raise MergeError(
            f"{source.name} is not a diffusion model that ComfyUI recognises, so the layers of a LoRA cannot be found. "
            "A complete model is expected. Use its whole file."
        )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(shown, CHECKPOINT, device=META)
    tensors: dict[str, Tensor] = model.state_dict()
    where = {
        name: Rows(key, 0, (*source.entries[key].shape, 1)[0])
        for name in tensors
        if (key := CHECKPOINT + name.removeprefix(MODEL)) in source.entries
        and tuple(source.entries[key].shape) == tuple(tensors[name].shape)
    }
    names, clip, of_text = Names(model, tensors), None, [key for key in shown if part_of(key) == TEXT_PART]
    if of_text:
        loaded = config.process_clip_state_dict(_numbered(of_text, source))
        clip = Names(SimpleNamespace(state_dict=lambda: loaded), loaded)
        clip.tensors = {name: tensor.to(META, torch.float32) for name, tensor in loaded.items()}
        where |= {
            name: rows for name, tensor in loaded.items() if (rows := _followed(tensor, of_text, source))
        }
    return names, clip, where


def _numbered(keys: list[str], source: Checkpoint) -> dict[str, Tensor]:
    """Tensors of the shapes of a file whose elements are numbers of their tensor and row."""
    found = {}
    for place_, key in enumerate(keys):
        shape = source.entries[key].shape
        rows = torch.arange(shape[0] if shape else 1) + place_ * ROWS
        found[key] = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape) if shape else rows[0]
    return found


def _followed(tensor: Tensor, keys: list[str], source: Checkpoint) -> Rows | None:
    """Where a tensor of numbers came from; None where it is not a run of whole rows of one tensor."""
    if not tensor.numel() or tensor.dtype != torch.int64:
        return None
    rows = tensor[(slice(None), *[0] * (tensor.ndim - 1))] if tensor.ndim else tensor[None]
    place_, start = divmod(int(rows[0]), ROWS)
    shape = source.entries[keys[place_]].shape
    whole = torch.equal(rows, rows[0] + torch.arange(len(rows))) and tuple(shape[1:]) == tuple(
        tensor.shape[1:]
    )
    return Rows(keys[place_], start, len(rows)) if whole else None
