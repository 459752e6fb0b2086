"""The size of a LoRA per block, and files scaled per block, through core's adapters."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import comfy.lora
import comfy.model_management
import comfy.utils
import torch

from ...blocks.drawing import draw_weights
from ...blocks.weights import BlockWeights
from ..errors import MergeError
from ..live.host_quantised import as_numbers, refuse_foreign
from . import measure
from .host import TEXT, Settings, block_weights, weight_of
from .host_files import open_lora, write
from .host_place import Placed, module_of, place, placed_modules, tensor_name
from .measure import Change
from .scale import scaled


@dataclass(frozen=True)
class BlockChange:
    """The change of one block: Frobenius norm, that of the model's own tensors, mean effective rank, tensors."""

    norm: float
    own: float
    rank: float | None
    tensors: int

    @property
    def share(self) -> float:
        """|change| / |model| over the tensors that the LoRA changes; 0 where the model's norm is not known."""
        return self.norm / self.own if self.own else 0.0


class LoraReport(NamedTuple):
    """The change per block as IMAGE ``1 h w 3``, as a table, and per block its share (its norm without a model)."""

    image: torch.Tensor
    text: str
    sizes: dict[str, float]


def lora_report(model: Any, clip: Any, name: str, key_map: str = "mbw") -> LoraReport:
    """How much a LoRA changes each block of a model; can be interrupted."""
    file = open_lora(name)
    placed = place(file, model, clip, key_map)
    found = measured(placed, model, clip)
    lines = [f"{file.name}: {len(placed.patches)} patches for {placed.layout.name}."]
    lines.append(f"{'block':<14}{'|change|':>12}{'share':>10}{'eff. rank':>11}{'patches':>9}")
    for block, change in found.items():
        rank = "-" if change.rank is None else f"{change.rank:.1f}"
        share = f"{change.share:.4%}" if change.own else "-"
        lines.append(f"{block:<14}{change.norm:>12.5g}{share:>10}{rank:>11}{change.tensors:>9}")
    total = math.sqrt(sum(change.norm**2 for change in found.values()))
    lines.append(f"{'all':<14}{total:>12.5g}")
    if placed.not_loaded:
        lines.append(f"{len(placed.not_loaded)} tensors were not loaded, first {placed.not_loaded[0]}.")
    sizes = dict.fromkeys(placed.layout.blocks, 0.0)
    for block in sizes.keys() & found.keys():
        sizes[block] = found[block].norm if model is None else found[block].share
    return LoraReport(torch.from_numpy(_image(placed, sizes))[None], "\n".join(lines), sizes)


def measured(placed: Placed, model: Any, clip: Any) -> dict[str, BlockChange]:
    """Block -> its change, in the order of the layout; the text encoder and what is in no block at the end."""
    squares: defaultdict[str, float] = defaultdict(float)
    owns: defaultdict[str, float] = defaultdict(float)
    ranks: defaultdict[str, list[float]] = defaultdict(list)
    counts: defaultdict[str, int] = defaultdict(int)
    bar = comfy.utils.ProgressBar(len(placed.patches))
    for key, patch in placed.patches.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        block = TEXT if placed.is_text[key] else placed.blocks[key] or "no block"
        patcher = model if not placed.is_text[key] or model is None else clip.patcher
        weight = _own(patcher, key) if model is not None else None
        change = _change(patch, key, weight)
        squares[block] += change.norm**2
        owns[block] += float(weight.double().square().sum()) if weight is not None else 0.0
        counts[block] += 1
        if change.rank is not None:
            ranks[block].append(change.rank)
        bar.update(1)
    order = [*placed.layout.blocks, *sorted(set(squares) - set(placed.layout.blocks))]
    return {
        block: BlockChange(
            math.sqrt(squares[block]),
            math.sqrt(owns[block]),
            sum(ranks[block]) / len(ranks[block]) if ranks[block] else None,
            counts[block],
        )
        for block in order
        if block in squares
    }


def _own(patcher: Any, key: Any) -> torch.Tensor:
    """The stored tensor that a patch changes, dequantised; its slice where the patch has one."""
    name = tensor_name(key)
    kept = patcher.backup.get(name)
    weight = kept.weight if kept is not None else comfy.utils.get_attr(patcher.model, name)
    refuse_foreign("The model", {name: weight})
    weight = comfy.model_management.cast_to_device(weight.detach(), torch.device("cpu"), torch.float32)
    weight = as_numbers(weight)
    if not isinstance(key, str) and key[1] is not None:
        weight = weight.narrow(*key[1])
    return weight


def _change(patch: Any, key: Any, weight: torch.Tensor | None) -> Change:
    """A patch's change: from small factors where its type allows, else from the dense product with the weight."""
    kind: str | None = getattr(patch, "name", None)
    values: Any = getattr(patch, "weights", ())
    if kind == "lora" and values[3] is None and values[4] is None and values[5] is None:
        up, down, alpha = values[:3]
        return measure.low_rank(up, down, 1.0 if alpha is None else alpha / down.shape[0])
    if kind == "loha" and values[5] is None and values[7] is None:
        scale = 1.0 if values[2] is None else values[2] / values[1].shape[0]
        return measure.hadamard([(values[0], values[1]), (values[3], values[4])], scale)
    if kind == "lokr" and values[7] is None and values[8] is None:
        first = values[0] if values[0] is not None else values[3].double() @ values[4].double()
        second = values[1] if values[1] is not None else values[5].double() @ values[6].double()
        ranked = values[6] if values[6] is not None else values[4]
        scale = 1.0 if values[2] is None or ranked is None else values[2] / ranked.shape[0]
        return measure.kronecker(first, second, scale)
    if isinstance(patch, tuple) and patch[0] == "diff":
        return measure.dense(patch[1][0])
    if weight is None:
        raise MergeError(
            f"The change of {tensor_name(key)} is of type {kind or type(patch).__name__} and depends on the model's weight. "
            "The report needs that weight. Connect the model that the LoRA is for."
        )
    after = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight.clone(), str(key))
    return measure.dense(after.double() - weight.double())


def _image(placed: Placed, sizes: Mapping[str, float]) -> Any:
    """Bars in the shape of the model: the change of each block as a share of the largest."""
    largest = max(sizes.values(), default=0.0) or 1.0
    values = tuple(sizes[block] / largest for block in placed.layout.blocks)
    return draw_weights(BlockWeights(placed.layout, values))


def save_by_block(
    model: Any, clip: Any, name: str, prefix: str, text: str, settings: Settings
) -> tuple[Path, str]:
    """Write the LoRA scaled per block below ComfyUI's output folder; core's loader reads it back with the same weights."""
    file = open_lora(name)
    placed = place(file, model, clip, settings.key_map)
    weights, elemental = block_weights(placed, text, settings)
    found = {
        module: weight_of(placed, key, weights, elemental) for module, key in placed_modules(placed).items()
    }
    tensors, strange = scaled(
        file.tensors,
        lambda tensor: module if (module := module_of(tensor, placed.names)) in found else None,
        found.__getitem__,
    )
    if not any(module_of(tensor, placed.names) in found for tensor in tensors):
        raise MergeError("All blocks of the LoRA have weight 0, so nothing is left to save. Raise a weight.")
    metadata = {key: str(value) for key, value in (file.metadata or {}).items()}
    metadata["blockwork_lora_weights"] = text
    path = write(tensors, prefix, metadata)
    lines = [f"{path.name}: {len(tensors)} of {len(file.tensors)} tensors of {file.name}."]
    if strange:
        lines.append(
            f"{len(strange)} tensors belong to no layer of this model and are kept as they are, first {strange[0]}."
        )
    if file.tensors is not file.original:
        lines.append("The file has the names that ComfyUI converts this LoRA to.")
    return path, "\n".join(lines)
