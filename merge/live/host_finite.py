"""Whether stored weights hold NaN or infinity, looked at once per stretch of storage."""

import torch
from comfy.quant_ops import QuantizedTensor
from torch.utils.weak import WeakIdKeyDictionary

from ..methods.finite import all_finite
from .host_quantised import stored_parts

# Storage of a stored weight -> place in it -> finite or not: a slider's next move scans nothing again.
_FINITE = WeakIdKeyDictionary()


def is_finite(tensor: torch.Tensor) -> bool:
    """``all_finite``, remembered per stretch of storage: core puts the same storage into new Parameters."""
    if isinstance(tensor, QuantizedTensor):
        return all(map(is_finite, stored_parts(tensor)))
    storage = tensor.untyped_storage()
    places: dict[tuple, bool] | None = _FINITE.get(storage)
    if places is None:
        places = _FINITE[storage] = {}
    place = (tensor.storage_offset(), tensor.shape, tensor.stride())
    if place not in places:
        places[place] = all_finite(tensor)
    return places[place]
