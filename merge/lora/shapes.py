"""Whether a patch that core read from a LoRA file fits the tensor it is for.

Core logs an error for a patch that does not fit, or stops in the middle of loading a model.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

RESHAPE = 5  # a LoRA may give the shape of a larger weight, which core pads to


def fits(patch: Any, shape: Sequence[int]) -> bool:
    """Whether core can add ``patch`` to a tensor of ``shape``; True for the types that are not looked at."""
    if isinstance(patch, tuple):
        return patch[0] not in ("diff", "set") or tuple(patch[1][0].shape) == tuple(shape)
    check = _CHECKS.get(getattr(patch, "name", ""))
    return check is None or check(patch.weights, tuple(shape))


def _lora(values: Any, shape: tuple[int, ...]) -> bool:
    up, down, core = values[0], values[1], values[3]
    if core is not None:
        square = core.ndim == 4 and core.shape[0] == core.shape[1]
        return square and _tucker(core, up, down) == math.prod(shape)
    return _product(up, down) == math.prod(values[RESHAPE] or shape)


def _loha(values: Any, shape: tuple[int, ...]) -> bool:
    if (values[5] is None) != (values[6] is None):
        return False
    pairs = ((values[0], values[1], values[5]), (values[3], values[4], values[6]))
    found = {
        _product(first, second) if core is None else _tucker(core, _turned(first), second)
        for first, second, core in pairs
    }
    return found == {math.prod(shape)}


def _lokr(values: Any, shape: tuple[int, ...]) -> bool:
    first, second, core = values[0], values[1], values[7]
    one = first.numel() if first is not None else _product(values[3], values[4])
    if second is not None:
        two = second.numel()
    elif core is None:
        two = _product(values[5], values[6])
    else:
        two = _tucker(core, _turned(values[5]), values[6])
    return one * two == math.prod(shape)


def _glora(values: Any, shape: tuple[int, ...]) -> bool:
    """``W + W a1 a2 + b1 b2``, or LyCORIS' old order ``W + W a2 a1 + b2 b1``, told apart as core does it."""
    parts = values[:4]
    if len(shape) < 2 or any(part is None or part.ndim < 2 for part in parts):
        return False
    a1, a2, b1, b2 = parts
    outer = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    inner = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if not outer and not inner:
        return False
    if outer and (not inner or a2.shape[0] == shape[0] == shape[1]):
        across = math.prod(shape[1:])
        fit = len(a2) == across == math.prod(a1.shape[1:]) and (len(b2), math.prod(b1.shape[1:])) == (
            shape[0],
            across,
        )
        return fit and math.prod(a2.shape[1:]) == len(a1) and math.prod(b2.shape[1:]) == len(b1)
    fit = len(a1) == shape[1] == math.prod(a2.shape[1:]) and math.prod(a1.shape[1:]) == len(a2)
    return fit and _product(b1, b2) == math.prod(shape)


def _oft(values: Any, shape: tuple[int, ...]) -> bool:
    """Blocks ``n b b`` that rotate n b rows."""
    blocks = values[0]
    return blocks.shape[1] == blocks.shape[2] and blocks.shape[0] * blocks.shape[1] == shape[0]


def _boft(values: Any, shape: tuple[int, ...]) -> bool:
    """Butterfly steps ``m n b b``, the last of which mixes ``2^(m-1) b`` rows; core needs an alpha."""
    blocks, rescale, alpha = values[:3]
    steps, count, size, other = blocks.shape
    if alpha is None or not steps or size != other or size % 2 or count * size != shape[0]:
        return False
    if rescale is not None:
        ends = zip(reversed(rescale.shape), reversed(shape), strict=False)
        if rescale.ndim > len(shape) or any(found not in (1, wanted) for found, wanted in ends):
            return False
    return shape[0] % (2 ** (steps - 1) * size) == 0


def _product(up: Tensor | None, down: Tensor | None) -> int:
    """The elements of ``up @ down``, trailing dimensions flattened; 0 where they cannot be multiplied."""
    if up is None or down is None or up.ndim < 2 or down.ndim < 2 or math.prod(up.shape[1:]) != len(down):
        return 0
    return len(up) * math.prod(down.shape[1:])


def _tucker(core: Tensor, up: Tensor | None, down: Tensor | None) -> int:
    """The elements of a kernel from a core ``i j h w``, ``up (n i)`` and ``down (j m)``; 0 where they do not fit."""
    if core.ndim != 4 or up is None or down is None or up.ndim < 2 or down.ndim < 2:
        return 0
    fit = math.prod(up.shape[1:]) == core.shape[0] and len(down) == core.shape[1]
    return len(up) * math.prod(down.shape[1:]) * core.shape[2] * core.shape[3] if fit else 0


def _turned(part: Tensor | None) -> Tensor | None:
    """The transpose of a matrix; None for other tensors."""
    return part.mT if part is not None and part.ndim == 2 else None


_CHECKS = {"lora": _lora, "loha": _loha, "lokr": _lokr, "glora": _glora, "oft": _oft, "boft": _boft}
