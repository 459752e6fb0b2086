"""Saving models with integer codes that are not loaded as a whole.

Core wraps such weights in parameters that are computed when they are written, and cannot wrap integers: ModelSave of an
int8 or nvfp4 model fails under dynamic loading, merged or not. These wrappers are core's, without a gradient.
"""

from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import LazyCastingParamPiece, LazyCastingQuantizedParam, ModelPatcher
from comfy.quant_ops import QuantizedTensor


class Piece(LazyCastingParamPiece):
    """Codes or scales of a weight, computed when they are written."""

    def __new__(cls, caster: LazyCastingQuantizedParam, state_dict_key: str, tensor: torch.Tensor) -> "Piece":
        return torch.nn.Parameter.__new__(cls, tensor, False)


class Without:
    """A module as core's saving sees it, without some of its tensors."""

    def __init__(self, module: Any, names: set[str]):
        self._module, self._names = module, names

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in self._module.state_dict().items() if key not in self._names}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def integer_codes(patcher: ModelPatcher, module: Any, prefix: str) -> dict[str, Piece]:
    """The tensors of weights with integer codes that core would compute when they are written."""
    state, found = module.state_dict(), dict[str, Piece]()
    for key, value in state.items():
        layer, _, name = key.rpartition(".")
        if name != "weight" or value.is_floating_point():
            continue
        owner = comfy.utils.get_attr(module, layer)
        weight = owner.weight
        loaded = getattr(owner, "comfy_patched_weights", False) is True
        if isinstance(weight, QuantizedTensor) and hasattr(owner, "comfy_cast_weights") and not loaded:
            caster = LazyCastingQuantizedParam(patcher, prefix + key)
            found |= {part: Piece(caster, prefix + part, state[part]) for part in weight.state_dict(key)}
    return found
