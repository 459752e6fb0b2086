"""A LoRA file scaled per module: names, order and metadata stay; what cannot be scaled is refused by name.

``alpha`` is scaled where the type uses it, in float32; else one factor of the product, in float32. Weight 0 drops the
module, weight 1 leaves its bytes.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import MergeError

ALPHA = ".alpha"
# Suffixes of the tensors of which one may be multiplied when the type does not use alpha, in order of choice.
FACTORS = (
    ".lora_up.weight", "_lora.up.weight", ".lora_B.weight", ".lora.up.weight", ".lora_B",
    ".lora_linear_layer.up.weight", ".lora_B.default.weight",
    ".hada_w1_a", ".lokr_w1", ".lokr_w1_a",
)  # fmt: skip
RANKED = (
    ".lora_down.weight", "_lora.down.weight", ".lora_A.weight", ".lora.down.weight", ".lora_A",
    ".lora_linear_layer.down.weight", ".lora_A.default.weight", ".hada_w1_b", ".lokr_w1_b", ".lokr_w2_b",
)  # fmt: skip
DIFFERENCES = (".diff", ".diff_b", ".w_norm", ".b_norm")
UNSCALABLE = (".dora_scale", ".oft_blocks", ".set_weight")


def scaled(
    tensors: Mapping[str, Tensor], module_of: Callable[[str], str | None], weight_of: Callable[[str], float]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with every module scaled by its weight, and the names that belong to no module (kept).

    ``module_of`` gives the name of the module a tensor belongs to, ``weight_of`` the weight of a module.
    MergeError names a module whose type cannot be scaled.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, tensor in tensors.items():
        module = module_of(name)
        if module is None:
            strange.append(name)
        else:
            modules.setdefault(module, {})[name] = tensor
    found: dict[str, Tensor] = {}
    changed = {name: _module(name, parts, weight_of(name)) for name, parts in modules.items()}
    for name, tensor in tensors.items():
        module = module_of(name)
        kept = {name: tensor} if module is None else changed[module]
        if name in kept:
            found[name] = kept[name]
    return found, strange


def _module(module: str, parts: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    if weight == 1:
        return parts
    if weight == 0:
        return {}
    rest = {name.removeprefix(module): name for name in parts}
    for suffix in UNSCALABLE:
        if suffix in rest:
            kind = {".dora_scale": "DoRA", ".oft_blocks": "OFT or BOFT"}.get(suffix, "a replaced weight")
            raise MergeError(
                f"{module} is {kind}, which alpha does not scale: it can be kept (1) or left out (0), not set to {weight:g}. "
                "Set its block to 0 or 1."
            )
    out = dict(parts)
    for suffix in DIFFERENCES:
        if suffix in rest:
            out[rest[suffix]] = parts[rest[suffix]].float() * weight
    if ALPHA in rest and any(suffix in rest for suffix in RANKED):
        out[rest[ALPHA]] = parts[rest[ALPHA]].float() * weight
    elif factor := next((suffix for suffix in FACTORS if suffix in rest), None):
        out[rest[factor]] = parts[rest[factor]].float() * weight
    elif ".a1.weight" in rest:
        return _glora(module, parts, rest, weight)
    elif not any(suffix in rest for suffix in DIFFERENCES):
        raise MergeError(f"{module} is of a type that cannot be scaled. Set its block to 0 or 1.")
    return out


def _glora(module: str, parts: dict[str, Tensor], rest: dict[str, str], weight: float) -> dict[str, Tensor]:
    """GLoRA's change is ``W a2 a1 + b2 b1``, both scaled by alpha / rank where there is an alpha."""
    out = dict(parts)
    names = (ALPHA,) if ALPHA in rest else (".a2.weight", ".b2.weight")
    for suffix in names:
        out[rest[suffix]] = parts[rest[suffix]].to(torch.float32) * weight
    return out
