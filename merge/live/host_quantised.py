"""Quantised weights of loaded models: read with core's own means, and stored by core as it stores a LoRA on them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor, get_layout_class

from ..errors import MergeError
from ..report import letter

SMOOTHING = ".pre_quant_scale"  # multiplies the input of a layer, so that its matrix is the weight times this
SMALLEST = 1e-30  # core divides by the largest value of a weight
_FOREIGN = {"GGMLTensor", "GGUFParameter", "Params4bit", "Int8Params"}  # of GGUF loaders and of bitsandbytes


def as_numbers(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    """A weight as core's layers without an own conversion use it: itself, dequantised where it is quantised."""
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight


def patches_of(patcher: ModelPatcher, key: str) -> list:
    """What ``get_key_patches`` gives for one key: the stored tensor itself and how it is dequantised, and its patches."""
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
    if key in patcher.backup_buffers:
        weight = patcher.backup_buffers[key]
    elif key in patcher.backup:
        weight = patcher.backup[key].weight
    elif key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    return [(weight, convert or as_numbers), *patcher.patches.get(key, ())]


def refuse_foreign(name: str, tensors: Mapping[str, Any]) -> None:
    """MergeError for weights in a form of another loader (GGUF, bitsandbytes), which core cannot store again."""
    foreign = {
        kind
        for kind in set(map(type, tensors.values()))
        if any(base.__name__ in _FOREIGN for base in kind.__mro__)
    }
    for key, tensor in tensors.items() if foreign else ():
        if type(tensor) in foreign:
            raise MergeError(
                f"{name} holds weights of the type {type(tensor).__name__} ({key}), as loaders of GGUF and nf4 files make them. "
                "ComfyUI's own formats are expected. Load the fp16, bf16 or fp8_scaled file of this model with Load "
                "Diffusion Model."
            )


def check_smoothing(patchers: Iterable[ModelPatcher], prefix: str | None) -> None:
    """MergeError where models scale the inputs of their layers differently: their weights cannot be compared then."""
    first: Mapping[str, torch.Tensor] | None = None
    for number, patcher in enumerate(patchers):
        state = patcher.model_state_dict(prefix)
        found = {key: value for key, value in state.items() if key.endswith(SMOOTHING)}
        if first is None:
            first = found
            continue
        odd = [key for key in first.keys() | found.keys() if not _alike(first.get(key), found.get(key))]
        if odd:
            raise MergeError(
                f"A and {letter(number)} scale the inputs of {len(odd)} layers differently (the first is {min(odd)}). "
                "Models with the same pre_quant_scale are expected. Use the files in Merge to File or Compare Checkpoint Files, "
                "which take it into account."
            )


def _alike(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool((one.float().cpu() == other.float().cpu()).all())


def stored_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a weight is stored in: codes and scales, or itself."""
    if not isinstance(tensor, QuantizedTensor):
        return [tensor]
    fields = vars(tensor.params).values()
    return [tensor._qdata, *(field for field in fields if isinstance(field, torch.Tensor))]


def never_zero(merged: torch.Tensor) -> None:
    """Make a weight of zeros one that core can quantise: it divides by the largest value. Without a GPU sync."""
    first = merged.view(-1)[:1]
    first.copy_(torch.where(merged.any(), first, SMALLEST))


def remarks(sources: Iterable[Any]) -> Iterator[str]:
    """What a report says about quantised models."""
    for source in sources:
        tensors = source.entries.values()
        found = Counter(_shown(tensor) for tensor in tensors if isinstance(tensor, QuantizedTensor))
        counted = ", ".join(f"{count} tensors {what}" for what, count in sorted(found.items()))
        again = (
            " Merged tensors are quantised again, as ComfyUI does with a LoRA." if source.name == "A" else ""
        )
        if found:
            yield f"{source.name} is quantised ({counted}). Its weights are merged in float32.{again}"


def _shown(tensor: QuantizedTensor) -> str:
    layout = get_layout_class(tensor._layout_cls).__name__
    name = layout.removeprefix("TensorCore").removeprefix("TensorWise").removesuffix("Layout")
    rotated = " with ConvRot" if getattr(tensor.params, "convrot", False) else ""
    return f"{name}{rotated}"
