"""Re-merging only what changed: a model patcher that switches its module from one merge to the next.

Core loads a clone with other patches by putting every weight back and patching all of them again. Between two
merges of the same model most patches are equal, so this patcher compares them and touches only the weights whose
patches differ; the rest of loading stays core's. Whenever something is out of the ordinary (weights offloaded or
loaded dynamically, hooks, injections, wrapped weights, a module of another origin in the way) it steps aside and
core's full path runs.
"""

import logging
import types
import uuid
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.weight_adapter.base import WeightAdapterBase

logger = logging.getLogger("blockwork")


class Itself:
    """An object known by identity and not kept alive, such as a tensor that a patch reads; equal while it lives."""

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
    """What stands in a module's weights: the patches' identifier and, per patched weight, their trace."""

    patches_uuid: uuid.UUID
    traces: dict[str, Any]


@dataclass(frozen=True)
class Switch:
    """What the last switch to this patcher did, in tensors."""

    recomputed: int
    restored: int  # put back to the model's own value
    kept: int  # patched alike before and after


_LOADED: WeakKeyDictionary[torch.nn.Module, Loaded] = WeakKeyDictionary()


def trace(value: Any) -> Any:
    """What a patch computes from, in a form that compares equal for equal effects and keeps no tensor alive.

    Numbers and names by value, tensors by identity, adapters and functions by what they are made of; whatever
    else there is makes the patch unequal to every other, which costs a recomputation and never a wrong weight.
    """
    if isinstance(value, torch.Tensor):
        return Unknown() if value.requires_grad else Itself(value)  # trained in place otherwise
    if isinstance(value, (str, bytes, int, float, bool, types.NoneType, torch.dtype, torch.device)):
        return value
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *map(trace, value))
    if isinstance(value, dict):
        return {key: trace(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)) and all(isinstance(entry, Hashable) for entry in value):
        return frozenset(value)
    if isinstance(value, WeightAdapterBase) and not isinstance(value, torch.nn.Module):
        return (type(value), trace(vars(value)))
    if isinstance(value, types.FunctionType):
        return Itself(value) if value.__closure__ else (value.__code__, trace(value.__defaults__))
    return Unknown()


class IncrementalPatcher(ModelPatcher):
    """Core's ModelPatcher, loading after a sibling by difference; its clones (a LoRA on top, say) do the same."""

    last_switch: Switch | None = None

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        super().load(device_to, lowvram_model_memory, force_patch_weights, full_load)
        if self._is_plain():
            patched = self.backup.keys() & self.patches.keys()
            _LOADED[self.model] = Loaded(self.patches_uuid, {k: trace(self.patches[k]) for k in patched})

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        self.last_switch = None
        if not force_patch_weights and self._is_plain() and self.model.device == device_to:
            try:
                self._switch(device_to)
            except BaseException:  # an interrupt too: half-switched weights must not stay
                self.detach()
                raise
        return super().partially_load(device_to, extra_memory, force_patch_weights)

    def _switch(self, device: torch.device) -> None:
        """Make the module's weights those of this patcher; nothing is touched when core has to do it."""
        before = self._standing()
        if before is None:
            return
        after = {key: trace(patches) for key, patches in self.patches.items()}
        changed = [key for key in after if key not in before or before[key] != after[key]]
        restored = [key for key in before if key not in after]
        if not all(self._is_loaded(key) for key in (*changed, *restored)):
            return
        for key in (*restored, *changed):
            self._restore(key, device)
            if key in after:
                self.patch_weight_to_device(key, device_to=device)
        self.model.current_weight_patches_uuid = self.patches_uuid
        _LOADED[self.model] = Loaded(self.patches_uuid, after)
        self.last_switch = Switch(len(changed), len(restored), len(after) - len(changed))
        logger.info(
            "Merge updated: %d tensors recomputed, %d put back, %d kept",
            *(self.last_switch.recomputed, self.last_switch.restored, self.last_switch.kept),
        )

    def _standing(self) -> dict[str, Any] | None:
        """The traces of the weights that stand patched in the module now; None when that is not known."""
        standing = self.model.current_weight_patches_uuid
        if standing in (None, self.patches_uuid):
            return None  # not loaded, or nothing to do
        if any(map(_is_dressed, self.model.modules())):
            return None
        if not self.backup:
            return {}
        loaded = _LOADED.get(self.model)
        if loaded is None or loaded.patches_uuid != standing or loaded.traces.keys() != self.backup.keys():
            return None
        return loaded.traces

    def _is_plain(self) -> bool:
        """Whether the module is loaded whole, and nothing but patches and object patches changes its weights."""
        return (
            not self.model.model_lowvram
            and self.model.model_loaded_weight_memory > 0
            and not self.force_cast_weights
            and not (self.hook_backup or self.hook_patches or self.forced_hooks or self.current_hooks)
            and not (self.weight_wrapper_patches or self.injections or self.pinned)
            and not self.get_all_callbacks(CallbacksMP.ON_LOAD)
        )

    def _is_loaded(self, key: str) -> bool:
        """Whether core's loader has put this very parameter in its place, unhidden by an object patch."""
        hidden = any(
            key == name or key.startswith(f"{name}.")
            for name in (*self.object_patches, *self.object_patches_backup)
        )
        module = comfy.utils.get_attr(self.model, key.rpartition(".")[0])
        return not hidden and getattr(module, "comfy_patched_weights", False) is True

    def _restore(self, key: str, device: torch.device) -> None:
        """Put the model's own weight back; where a new patch follows, that brings it to the device."""
        kept = self.backup.get(key)
        if kept is None:
            return
        if kept.inplace_update:
            comfy.utils.copy_to_param(self.model, key, kept.weight)
        else:
            weight = kept.weight if key in self.patches else kept.weight.to(device)
            comfy.utils.set_attr_param(self.model, key, weight)
        del self.backup[key]


def _is_dressed(module: torch.nn.Module) -> bool:
    """Whether something computes this module's weights anew at every forward: offloading, a weight wrapper."""
    return bool(
        getattr(module, "weight_function", None)
        or getattr(module, "bias_function", None)
        or hasattr(module, "prev_comfy_cast_weights")
    )


def incremental(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` that re-merges by difference; a plain clone where its patcher is not core's own.

    Core's dynamic loader merges each weight when it is used and is left as it is.
    """
    clone = model.clone()
    if type(clone) is ModelPatcher:
        clone.__class__ = (
            IncrementalPatcher  # clone() makes the class it is called on: there is no other door
        )
    return clone
