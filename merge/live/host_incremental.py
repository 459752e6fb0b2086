"""Re-merging only what changed: patchers that switch a module from one merge to the next.

Core loads a clone with other patches by patching every weight again. Between two merges of the same model most
patches are equal, so these patchers compare them: the plain one recomputes only the weights whose patches differ, the
one for dynamic loading lets only their modules lose their pages. The rest of loading stays core's. In any unusual
state (hooks, injections, wrapped weights, hidden modules, a clone of another origin loaded in between) core's full
path runs.
"""

import logging
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_prefetch
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch, ModelPatcher, ModelPatcherDynamic
from comfy.patcher_extension import CallbacksMP
from comfy.quant_ops import QuantizedTensor

from .host_left_out import PatchesLeftOut, left_out
from .host_trace import LOADED, Loaded, Switch, compared, trace

logger = logging.getLogger("blockwork")


class IncrementalPatcher(PatchesLeftOut, ModelPatcher):
    """Core's ModelPatcher, loading after a sibling by difference; its clones (a LoRA on top, say) do the same."""

    last_switch: Switch | None = None

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        super().load(device_to, lowvram_model_memory, force_patch_weights, full_load)
        self.patch_left_out(device_to)
        if self._is_plain():
            patched = self.backup.keys() & self.patches.keys()
            LOADED[self.model] = Loaded(self.patches_uuid, {k: trace(self.patches[k]) for k in patched})

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
        changed, restored = compared(before, after)
        beside = left_out(self, dynamic=False)
        if not all(self._is_loaded(key, key in beside) for key in (*changed, *restored)):
            return
        for key in (*restored, *changed):
            self._restore(key, device)
            if key in after:
                self.patch_weight_to_device(key, device_to=device)
        self.model.current_weight_patches_uuid = self.patches_uuid
        LOADED[self.model] = Loaded(self.patches_uuid, after)
        self.last_switch = Switch(len(changed), len(restored), len(after) - len(changed))
        logger.info("Merge updated: %s", self.last_switch)

    def _standing(self) -> dict[str, Any] | None:
        """The traces of the weights that are patched in the module now; None when that is not known."""
        standing = self.model.current_weight_patches_uuid
        if standing in (None, self.patches_uuid):
            return None  # not loaded, or nothing to do
        if any(map(_recomputes, self.model.modules())):
            return None
        if not self.backup:
            return {}
        loaded = LOADED.get(self.model)
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

    def _is_loaded(self, key: str, beside: bool) -> bool:
        """Whether this very tensor is loaded, by core or beside it, and not hidden by an object patch."""
        names = (*self.object_patches, *self.object_patches_backup)
        if any(key == name or key.startswith(f"{name}.") for name in names):
            return False
        module = comfy.utils.resolve_attr(self.model, key)[0]
        return beside or getattr(module, "comfy_patched_weights", False) is True

    def _restore(self, key: str, device: torch.device) -> None:
        """Restore the model's own weight; if a new patch follows, that moves it to the device."""
        kept = self.backup.get(key)
        if kept is None:
            return
        if kept.inplace_update:
            comfy.utils.copy_to_param(self.model, key, kept.weight)
        else:
            weight = kept.weight if key in self.patches else kept.weight.to(device)
            comfy.utils.set_attr_param(self.model, key, weight)
        del self.backup[key]


class IncrementalDynamicPatcher(PatchesLeftOut, ModelPatcherDynamic):
    """Core's patcher for dynamic loading; a weight whose patches did not change keeps its page, merged as it is."""

    last_switch: Switch | None = None

    def load(
        self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False, dirty=False
    ):
        before = self._standing()
        after = {key: trace(patches) for key, patches in self.patches.items()}
        LOADED.pop(self.model, None)
        self.last_switch = None
        self._drop_unfinished()
        self.return_pages()
        whole = dirty and before is None
        super().load(device_to, lowvram_model_memory, force_patch_weights, full_load, dirty=whole)
        if before is not None:
            changed, restored = compared(before, after)
            for name in {key.rpartition(".")[0] for key in (*changed, *restored)}:
                module = comfy.utils.get_attr(self.model, name) if name else self.model
                if hasattr(module, "_v_signature"):
                    module._v_signature = None
            if dirty:
                self.last_switch = Switch(len(changed), len(restored), len(after) - len(changed))
                logger.info("Merge updated: %s", self.last_switch)
        self._round_merges()
        self.patch_left_out(device_to)
        if self._is_usual():
            LOADED[self.model] = Loaded(self.patches_uuid, after, self._conditions())

    def _standing(self) -> dict[str, Any] | None:
        """The traces of the patches that the pages hold; None when that is not known."""
        loaded = LOADED.get(self.model)
        if loaded is None or loaded.patches_uuid != self.model.current_weight_patches_uuid:
            return None
        if not self._is_usual() or loaded.conditions != self._conditions():
            return None
        return loaded.traces

    def _is_usual(self) -> bool:
        """Whether nothing but patches decides what a page holds, and no object patch hides weights."""
        hiding = any(
            isinstance(thing, (torch.nn.Parameter, torch.nn.Module)) and _has_weights(thing)
            for thing in (*self.object_patches.values(), *self.object_patches_backup.values())
        )
        return not (
            hiding
            or self.hook_patches
            or self.forced_hooks
            or self.current_hooks
            or self.weight_wrapper_patches
            or self.injections
            or self.get_all_callbacks(CallbacksMP.ON_LOAD)
        )

    def _conditions(self) -> tuple:
        """Merges are computed at the precision of the forward pass, so that a page also depends on these."""
        return self.load_device, self.force_cast_weights, self.object_patches.get("manual_cast_dtype")

    def _round_merges(self) -> None:
        """Let the pass that merges compute with the weights of all later ones; core's uses unrounded ones."""
        for key in self.patches:
            module, name = comfy.utils.resolve_attr(self.model, key)
            patch = getattr(module, f"{name}_lowvram_function", None)
            if patch is not None and not isinstance(getattr(module, name), QuantizedTensor):
                setattr(module, f"{name}_lowvram_function", RoundedPatch(patch, module, name))

    def _drop_unfinished(self) -> None:
        """Empty the pages of modules whose merge an exception ended: core marks a page before it is merged."""
        for module in self.model.modules():
            if "_prefetch" in module.__dict__:
                comfy.model_prefetch.cleanup_prefetched_modules([module])
                module._v_signature = None


class RoundedPatch(LowVramPatch):
    """Core's patch of a paged weight, computed as the plain loader does: float32 between patches, rounded once."""

    _pin_state: Any

    def __init__(self, patch: LowVramPatch, module: Any, name: str):
        super().__init__(patch.key, patch.patches)
        self._pin_state = vars(patch)["_pin_state"]
        self.dtype = getattr(module, f"{name}_comfy_model_dtype", None) or getattr(module, name).dtype
        self.seed = comfy.utils.string_to_seed(module.seed_key)

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        patches = self.patches[self.key] if self.prepared_patches is None else self.prepared_patches
        merged = comfy.lora.calculate_weight(patches, weight, self.key)
        return comfy.float.stochastic_rounding(merged, self.dtype, seed=self.seed).to(weight.dtype)


def _has_weights(thing: torch.nn.Parameter | torch.nn.Module) -> bool:
    return isinstance(thing, torch.nn.Parameter) or any(True for _ in thing.parameters())


def _recomputes(module: torch.nn.Module) -> bool:
    """Whether something computes this module's weights again in every forward pass: offloading, a weight wrapper."""
    return bool(
        getattr(module, "weight_function", None)
        or getattr(module, "bias_function", None)
        or hasattr(module, "prev_comfy_cast_weights")
    )


_CLASSES = {ModelPatcher: IncrementalPatcher, ModelPatcherDynamic: IncrementalDynamicPatcher}


def incremental(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` that re-merges by difference; a plain clone where its patcher is not core's own.

    Such a plain clone does not patch the keys of ``unpatched``.
    """
    clone = model.clone()
    if type(clone) in _CLASSES:  # clone() makes the class it is called on
        clone.__class__ = _CLASSES[type(clone)]
    return clone


def unpatched(patcher: ModelPatcher) -> set[str]:
    """The keys whose patches would have no effect on this patcher; empty for those that ``incremental`` makes."""
    return set() if isinstance(patcher, PatchesLeftOut) else left_out(patcher, patcher.is_dynamic())
