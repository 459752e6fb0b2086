"""One patch value for ComfyUI's patch system that merges a tensor in a single float32 pass.

Core's own patches round to the GPU's half type at every step; this one takes A's weight as core gives it, the other
models' as they are stored, computes in float32 and rounds once. It also serves low-VRAM and dynamic loading,
which give patches the weight at compute precision and expect the same dtype back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.lora
import comfy.model_management
import comfy.weight_adapter.base
import torch
from comfy.quant_ops import QuantizedTensor

from ..methods import METHODS
from .host_quantised import as_numbers, never_zero, patches_of

KeyPatches = list  # as ModelPatcher.get_key_patches gives them: [(weight, convert), patch, ...]
Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Own:
    """A's own key patches, for where core gives patches a copy that cannot hold A's stored numbers.

    An object and not a list, so that dynamic loading does not transfer these tensors with the patch as well.
    """

    patches: KeyPatches

    @property
    def exact(self) -> torch.dtype:
        """The dtype that holds the stored numbers exactly."""
        stored = self.patches[0][0]
        return torch.float32 if isinstance(stored, QuantizedTensor) else stored.dtype


TAKE = ""  # the name of no method: the tensor of the other model as it is

# Core's dynamic loading gathers the tensors of a patch in a buffer and cannot make one of 0 bytes.
ANCHOR = torch.zeros(1)

# Elements: a chunk of A, of B and the buffer fit in cache; smaller chunks cost more in threads.
CHUNK = 1 << 20


class How(NamedTuple):
    """How a tensor is merged: plain values, which core passes through and ``trace`` compares."""

    method: str
    ratios: Numbers = ()
    options: Numbers = ()
    seed: int | None = None
    channels: int = 0  # only the first channels of dimension 1 are merged; 0: all
    keep_a: bool = False  # A's value stays where the result is NaN or infinite
    quantised: bool = False  # core quantises the result


class MergePatch(comfy.weight_adapter.base.WeightAdapterBase):
    """A merge as a weight patch; made by ``merge_patch``.

    ``others`` are key patches of the other models, so that a merge of merges needs no copy of either. The
    constructor's two arguments are those with which core's prefetching makes adapters again.
    """

    name = "blockwork_merge"

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]):
        self.loaded_keys = loaded_keys
        self.weights: Any = weights

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        """The merged tensor, float32, or ``weight``'s own dtype where the caller computes in that."""
        plain, others, own, _ = self.weights
        how = How(*plain)
        weight = as_numbers(weight)
        if own is not None and weight.dtype not in (torch.float32, own.exact):
            merged = effective(own.patches, key, weight.device).to(torch.float32, copy=True)
        else:
            merged = weight.to(torch.float32)
        before = merged.clone() if how.keep_a else None
        operands = [effective(patches, key, weight.device) for patches in others]
        if how.channels:
            part = merged[:, : how.channels]
            part.copy_(_merged(part.contiguous(), [operand[:, : how.channels] for operand in operands], how))
        else:
            merged = _merged(merged, operands, how)
        if before is not None:
            merged = torch.where(merged.isfinite(), merged, before)
        if how.quantised:
            never_zero(merged)
        return merged.to(weight.dtype) if intermediate_dtype == weight.dtype else merged


def merge_patch(how: How, others: Sequence[KeyPatches] = (), own: Own | None = None) -> MergePatch:
    """The patch value of one tensor; it always holds a tensor, also where the method reads A alone."""
    return MergePatch(set(), (tuple(how), tuple(others), own, None if others else ANCHOR))


def own_patches(model: Any, stored: Mapping[str, torch.Tensor]) -> dict[str, Own]:
    """By key, what ``model`` computes a tensor from, for those where core gives its patches less than ``stored`` holds."""
    enough = {torch.float8_e4m3fn, torch.float8_e5m2}
    if (
        not model.is_dynamic()
    ):  # dynamic loading gives the dtype of the layer's input, which is not known here
        given = comfy.model_management.lora_compute_dtype(model.load_device)
        if given == torch.float32:
            return {}
        enough.add(given)
    return {
        key: Own(patches_of(model, key))
        for key, tensor in stored.items()
        if isinstance(tensor, QuantizedTensor) or tensor.dtype not in enough
    }


def numbers(values: Mapping[str, float]) -> Numbers:
    """Numbers by name in the form in which a patch holds them."""
    return tuple(values.items())


def effective(patches: KeyPatches, key: str, device: torch.device) -> torch.Tensor:
    """Another model's tensor with its own patches applied; as stored where it has none."""
    stored, convert = patches[0]
    if len(patches) == 1 and type(stored) in (torch.Tensor, torch.nn.Parameter):
        return convert(comfy.model_management.cast_to_device(stored, device, stored.dtype))
    whole = comfy.model_management.cast_to_device(stored, device, torch.float32, copy=True)
    return comfy.lora.calculate_weight(patches[1:], convert(whole, inplace=True), key)


def _merged(merged: torch.Tensor, operands: Sequence[torch.Tensor], how: How) -> torch.Tensor:
    """The result in float32; ``merged``, A's copy, may be overwritten."""
    if how.method == TAKE:
        return merged.copy_(operands[0])  # a copy: core and later patches change it in place
    ratios = dict(how.ratios)
    in_place = {"each": _each_in_place, "add_difference": _add_difference_in_place}.get(how.method)
    if in_place is None or merged.device.type != "cpu" or not merged.is_contiguous():
        return METHODS[how.method].blend([merged, *operands], ratios, dict(how.options), seed=how.seed)
    buffer = torch.empty(min(CHUNK, merged.numel()))
    flat = merged.view(-1)
    flats = [operand.reshape(-1) for operand in operands]
    for start in range(0, flat.numel(), CHUNK):
        chunk = slice(start, start + CHUNK)
        target, others = flat[chunk], [operand[chunk] for operand in flats]
        in_place(target, *others, buffer[: target.numel()], **ratios)
    return merged


def _each_in_place(a: torch.Tensor, b: torch.Tensor, buffer: torch.Tensor, m_a: float, m_b: float) -> None:
    """``each``, the same two products and their sum, in memory that is allocated already: half its cost is new memory."""
    buffer.copy_(b)
    a.mul_(m_a).add_(buffer.mul_(m_b))


def _add_difference_in_place(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, buffer: torch.Tensor, alpha: float
) -> None:
    """``add_difference`` likewise."""
    buffer.copy_(b)
    a.add_(buffer.sub_(c.to(torch.float32)), alpha=alpha)
