"""One patch value for ComfyUI's patch system that merges a tensor in a single float32 pass.

Core's own patches round to the GPU's half type at every step; this one takes A's weight as it comes, the other
models' as they are stored, computes in float32 and rounds once. It also serves low-VRAM and dynamic loading,
which hand patches the weight at compute precision and expect the same dtype back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.weight_adapter.base
import torch

from ..methods import add_difference, each
from ..plan import LATENT

Method = Callable[..., torch.Tensor]
KeyPatches = list  # as ModelPatcher.get_key_patches gives them: [(weight, convert), patch, ...]


@dataclass(frozen=True)
class Own:
    """A's own key patches, for where core hands patches A rounded to less than it is stored in.

    An object and not a list, so that dynamic loading does not transfer these tensors with the patch as well.
    """

    patches: KeyPatches


Merge = tuple[Method, tuple[float, ...], tuple[KeyPatches, ...], Own | None, torch.Tensor | None]

# Core's dynamic loading gathers the tensors of a patch in a buffer and cannot make one of 0 bytes.
ANCHOR = torch.zeros(1)

CHUNK = (
    1 << 20
)  # elements: a chunk of A, of B and the buffer fit in cache; smaller chunks cost more in threads


class MergePatch(comfy.weight_adapter.base.WeightAdapterBase):
    """``method(A, *others, *parameters)`` as a weight patch; made by ``merge_patch``.

    ``others`` are key patches of the other models, so that a merge of merges needs no copy of either. The
    constructor's two arguments are those with which core's prefetching makes adapters again.
    """

    name = "blockwork_merge"

    def __init__(self, loaded_keys: set[str], weights: Merge):
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
        method, parameters, others, own, _ = self.weights
        if own is not None and weight.dtype not in (torch.float32, own.patches[0][0].dtype):
            merged = _effective(own.patches, key, weight.device).to(torch.float32, copy=True)
        else:
            merged = weight.to(torch.float32)
        operands = [_effective(patches, key, weight.device) for patches in others]
        if all(operand.shape == merged.shape for operand in operands):
            _merge_into(merged, operands, method, parameters)
        else:  # the input convolution of an inpainting or edit model: its further channels stay A's
            part = merged[:, :LATENT]
            latent = [operand[:, :LATENT].to(torch.float32) for operand in operands]
            part.copy_(method(part, *latent, *parameters))
        return merged.to(weight.dtype) if intermediate_dtype == weight.dtype else merged


def merge_patch(
    method: Method,
    parameters: tuple[float, ...],
    others: tuple[KeyPatches, ...] = (),
    own: Own | None = None,
) -> MergePatch:
    """The patch value of one tensor; it always holds a tensor, also where the method reads A alone."""
    return MergePatch(set(), (method, parameters, others, own, None if others else ANCHOR))


def own_patches(model: Any, key: str, stored: torch.Tensor) -> Own | None:
    """What ``model`` computes one tensor from, if core hands its patches less than ``stored`` holds; else None."""
    narrow = comfy.model_management.lora_compute_dtype(model.load_device) != torch.float32
    if not narrow or stored.dtype not in (torch.float32, torch.bfloat16):
        return None
    return Own([(stored, _as_it_is), *model.patches.get(key, ())])


def _as_it_is(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    return weight


def _effective(patches: KeyPatches, key: str, device: torch.device) -> torch.Tensor:
    """Another model's tensor with its own patches applied; as stored where it has none."""
    stored, convert = patches[0]
    if len(patches) == 1 and type(stored) in (torch.Tensor, torch.nn.Parameter):
        return convert(comfy.model_management.cast_to_device(stored, device, stored.dtype))
    whole = comfy.model_management.cast_to_device(stored, device, torch.float32, copy=True)
    return comfy.lora.calculate_weight(patches[1:], convert(whole, inplace=True), key)


def _merge_into(
    merged: torch.Tensor, operands: Sequence[torch.Tensor], method: Method, parameters: Sequence[float]
) -> None:
    """Overwrite ``merged`` (float32) with the method's result; on a CPU in chunks, through one buffer."""
    if merged.device.type != "cpu" or not merged.is_contiguous():
        merged.copy_(method(merged, *(operand.to(torch.float32) for operand in operands), *parameters))
        return
    in_place = {each: _each_in_place, add_difference: _add_difference_in_place}.get(method)
    buffer = torch.empty(min(CHUNK, merged.numel()))
    flat = merged.view(-1)
    flats = [operand.reshape(-1) for operand in operands]
    for start in range(0, flat.numel(), CHUNK):
        chunk = slice(start, start + CHUNK)
        target, others = flat[chunk], [operand[chunk] for operand in flats]
        if in_place:
            in_place(target, *others, buffer[: target.numel()], *parameters)
        else:
            target.copy_(method(target, *(other.to(torch.float32) for other in others), *parameters))


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
