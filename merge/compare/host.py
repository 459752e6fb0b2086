"""Comparing models in ComfyUI: loaded models with their patches, files by name, the result as an IMAGE."""

import comfy.lora
import comfy.model_management
import torch

from ...blocks.drawing import as_array
from ...blocks.keys import MODEL
from ..files.checkpoint import Checkpoint, FileCheckpoint, TensorCheckpoint
from ..files.header import Entry
from ..files.host import find, progress
from ..live.host_left_out import key_patches
from ..live.host_quantised import check_smoothing, refuse_foreign
from .comparison import Comparison, compare
from .image import draw


def compare_live(model_a, model_b, key_map: str) -> Comparison:
    """Compare the diffusion models of two loaded models, patches included."""
    check_smoothing([model_a, model_b], MODEL)
    a, b = patched("A", model_a), patched("B", model_b)
    return compare(a, b, key_map, _ticker(a))


def compare_files(name_a: str, name_b: str, key_map: str) -> Comparison:
    """Compare two checkpoint files, piece by piece."""
    a, b = FileCheckpoint(find(name_a), name_a), FileCheckpoint(find(name_b), name_b)
    try:
        return compare(a, b, key_map, _ticker(a))
    finally:
        a.close()
        b.close()


def picture(comparison: Comparison, measure: str) -> torch.Tensor:
    """The comparison drawn in the shape of the U, as IMAGE (``1 h w 3``, 0..1)."""
    return torch.from_numpy(as_array(draw(comparison, measure)))[None]


def patched(letter: str, model) -> TensorCheckpoint:
    """A loaded diffusion model with its patches, each tensor computed when it is asked for; MergeError for weights of other loaders."""
    patches = key_patches(model, MODEL)
    refuse_foreign(f"Model {letter}", {key: found[0][0] for key, found in patches.items()})
    entries = {
        key: Entry(found[0][0].dtype, tuple(found[0][0].shape))
        for key, found in patches.items()
        if found[0][0].is_floating_point()
    }

    def get(key: str) -> torch.Tensor:
        (stored, convert), *rest = patches[key]
        weight = convert(
            comfy.model_management.cast_to_device(stored, torch.device("cpu"), torch.float32, copy=True),
            inplace=True,
        )
        return comfy.lora.calculate_weight(rest, weight, key) if rest else weight

    return TensorCheckpoint(f"model {letter} ({type(model.model).__name__})", entries, get)


def _ticker(checkpoint: Checkpoint):
    total, done, report = sum(entry.nbytes for entry in checkpoint.entries.values()), 0, progress()

    def tick(moved: int) -> None:
        nonlocal done
        done += moved
        report(min(done, total), total)

    return tick
