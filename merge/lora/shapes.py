"""Whether a patch that core read from a LoRA file fits the tensor it is for; core skips one that does not."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

RANKED = {"lora": ((0, 1),), "loha": ((0, 1), (3, 4)), "lokr": ((3, 4), (5, 6))}  # places of up and down
CORES = {"lora": (3,), "loha": (5, 6), "lokr": (7,)}  # places of Tucker cores
RESHAPE = 5  # a LoRA may give the shape of a larger weight, which core pads to


def fits(patch: Any, shape: Sequence[int]) -> bool:
    """Whether core can add ``patch`` to a tensor of ``shape``; True for the types that are not looked at."""
    if isinstance(patch, tuple):
        return patch[0] not in ("diff", "set") or tuple(patch[1][0].shape) == tuple(shape)
    kind: str = getattr(patch, "name", "")
    values: Any = getattr(patch, "weights", ())
    if kind not in RANKED or any(values[place] is not None for place in CORES[kind]):
        return True
    if kind == "lora" and values[RESHAPE] is not None:
        shape = values[RESHAPE]
    products = [_product(values[up], values[down]) for up, down in RANKED[kind]]
    if kind == "lokr":
        products = [
            product if whole is None else whole.numel()
            for whole, product in zip(values[:2], products, strict=True)
        ]
        found = products[0] * products[1]
    else:
        found = products[0] if len(set(products)) == 1 else 0
    return found == math.prod(shape)


def _product(up: Tensor | None, down: Tensor | None) -> int:
    """The elements of ``up @ down``, trailing dimensions flattened; 0 where they cannot be multiplied."""
    if up is None or down is None or up.ndim < 2 or down.ndim < 2 or math.prod(up.shape[1:]) != len(down):
        return 0
    return len(up) * math.prod(down.shape[1:])
