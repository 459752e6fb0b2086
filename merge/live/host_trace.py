"""What a patch computes from, in a form that can be compared later and keeps no tensor alive."""

import types
import uuid
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from comfy.weight_adapter.base import WeightAdapterBase

from .host_patch import Own


class Itself:
    """An object compared by identity and not kept alive, such as a tensor that a patch reads; equal while it lives."""

    def __init__(self, thing: Any):
        self.thing = ref(thing)

    def __eq__(self, other: object) -> bool:
        mine = self.thing()
        return isinstance(other, Itself) and mine is not None and mine is other.thing()

    __hash__ = None  # type: ignore[assignment]


class Unknown:
    """Something whose effect cannot be compared: equal to nothing, itself included."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Loaded:
    """The patches that a module's weights hold: their identifier, a trace per key, and the conditions of loading."""

    patches_uuid: uuid.UUID
    traces: dict[str, Any]
    conditions: Any = None


@dataclass(frozen=True)
class Switch:
    """What the last switch to this patcher did, in tensors."""

    recomputed: int
    restored: int  # put back to the model's own value
    kept: int  # patched alike before and after

    def __str__(self) -> str:
        return f"{self.recomputed} tensors recomputed, {self.restored} restored, {self.kept} unchanged"


PLAIN = (str, bytes, int, float, bool, types.NoneType, torch.dtype, torch.device)
LOADED: WeakKeyDictionary[torch.nn.Module, Loaded] = WeakKeyDictionary()


def trace(value: Any) -> Any:
    """What a patch computes from: equal for equal effects.

    Numbers and names by value, tensors by identity, adapters and functions by their parts. Anything else makes the
    patch unequal to every other, which costs a recomputation and never gives a wrong weight.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *map(trace, value))
    if isinstance(value, torch.Tensor):
        return Unknown() if value.requires_grad else Itself(value)  # trained in place otherwise
    if isinstance(value, dict):
        return {key: trace(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)) and all(isinstance(entry, Hashable) for entry in value):
        return frozenset(value)
    if isinstance(value, WeightAdapterBase) and not isinstance(value, torch.nn.Module):
        return (type(value), trace(vars(value)))
    if isinstance(value, Own):
        return trace(value.patches[1:])  # the first is the tensor of the module for which the trace is kept
    if isinstance(value, types.MethodType):
        return (trace(value.__func__), Itself(value.__self__))
    if isinstance(value, types.FunctionType):
        return Itself(value) if value.__closure__ else (value.__code__, trace(value.__defaults__))
    return Unknown()


def compared(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The keys whose patches differ, and those that are not patched any more."""
    changed = [key for key in after if key not in before or before[key] != after[key]]
    return changed, [key for key in before if key not in after]
