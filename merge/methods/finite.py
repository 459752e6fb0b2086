"""Finding NaN and infinity, cheaply enough to look at every tensor that is merged or written."""

import torch
from torch import Tensor

from .registry import BLOCK

# float8 has no reductions: an element is not finite where all bits of the mask are set.
_FLOAT8_MASKS = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C, torch.float8_e8m0fnu: 0xFF}


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: one read of the tensor, for its sum and its extremes carry both."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    values = tensor.detach()
    if values.dtype in _FLOAT8_MASKS:
        mask = _FLOAT8_MASKS[values.dtype]
        return not bool(((values.contiguous().view(torch.uint8) & mask) == mask).any())
    if values.device.type == "cpu" and values.numel() > BLOCK and values.is_contiguous():
        # Threads would wait for each other here longer than they add. A sum of large numbers may overflow by itself:
        # then the extremes decide.
        sums = [block.sum(dtype=torch.float32) for block in values.view(-1).split(BLOCK)]
        if bool(torch.isfinite(torch.stack(sums)).all()):
            return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
