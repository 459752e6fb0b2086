"""The weights that core's loaders do not patch, patched and restored by this mixin of both patchers.

Core patches the parameters of modules that have no children with parameters. It leaves out parameters beside such
children (``modulation`` of Wan, ``x_pad_token`` of Z-Image) and buffers (``pos_embed`` of SD3). Its dynamic loader
also leaves out modules outside ``comfy.ops`` (T5LayerNorm), and it patches a paged weight only where the module itself
is called, so that a weight that is read directly stays unpatched (CLIP's position embedding).
"""

from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...blocks.keys import is_quantised
from .host_quantised import patches_of
from .host_saving import Without, integer_codes

# Tables up to this size are patched when the model loads: position embeddings are read directly, token embeddings,
# which are larger, are called.
TABLE = 4 << 20

Backup = namedtuple("Backup", ("weight", "inplace_update"))  # as core's patchers keep them

# The pages of modules that were patched when the model loaded, for the next loading.
_PAGES: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()


def left_out(patcher: ModelPatcher, dynamic: bool) -> set[str]:
    """The keys of a model's tensors that core's loader, dynamic or not, leaves unpatched."""
    found = set()
    for name, module in patcher.model.named_modules():
        own = [parameter for parameter, value in module._parameters.items() if value is not None]
        buffers = module._buffers.keys() - module._non_persistent_buffers_set
        if not own and not buffers:
            continue
        prefix = f"{name}." if name else ""
        found |= {prefix + buffer for buffer in buffers}
        has_children = any(True for child in module.children() for _ in child.parameters())
        outside = dynamic and not hasattr(module, "comfy_cast_weights")
        table = dynamic and isinstance(module, torch.nn.Embedding) and module.weight.nbytes <= TABLE
        if has_children or outside or table:
            found |= {prefix + parameter for parameter in own}
    return found


class PatchesLeftOut(ModelPatcher if TYPE_CHECKING else object):
    """For a subclass of core's patchers: patches the keys that core leaves out, and never patches a weight twice."""

    def patch_weight_to_device(
        self, key, device_to=None, inplace_update=False, return_weight=False, force_cast=False
    ):
        """As core's, but a returned weight is computed from the stored one, also while a patched one is loaded."""
        usual = super().patch_weight_to_device
        if return_weight:
            with self._stored(key):
                return usual(key, device_to, inplace_update, True, force_cast)
        name = key.rpartition(".")[2]
        module = comfy.utils.resolve_attr(self.model, key)[0]
        if name not in module._buffers:
            return usual(key, device_to, inplace_update, False, force_cast)
        stored = module._buffers[name]
        patched: Any = usual(key, device_to, inplace_update, True, force_cast)
        with torch.inference_mode(False):  # core restores it in place, in any mode
            patched = patched.clone()
        if not self.is_dynamic() and key not in self.backup:
            self.backup[key] = Backup(stored.to(self.offload_device), True)
        comfy.utils.set_attr_buffer(self.model, key, patched)
        return None

    def model_state_dict_for_saving(self, model=None, prefix=""):
        """As core's, also for weights with integer codes."""
        module = self.model if model is None else model
        codes = integer_codes(self, module, prefix)
        usual = super().model_state_dict_for_saving
        return usual(Without(module, set(codes)) if codes else module, prefix) | codes

    def patch_left_out(self, device: Any) -> None:
        """Patch what core's ``load`` has just left out."""
        dynamic = self.is_dynamic()
        for key in sorted(self.patches.keys() & left_out(self, dynamic)):
            if dynamic:
                self._use_own_weight(key)
            elif key in self.backup:
                continue
            self.patch_weight_to_device(key, device_to=device)
            module, name = comfy.utils.resolve_attr(self.model, key)
            dtype = getattr(module, f"{name}_comfy_model_dtype", None)
            if name in module._parameters and dtype not in (None, module._parameters[name].dtype):
                comfy.utils.set_attr_param(self.model, key, module._parameters[name].to(dtype))

    def return_pages(self) -> None:
        """Give modules that were patched at loading their pages back, before core would allocate others."""
        for module in self.model.modules():
            if module in _PAGES and not hasattr(module, "_v"):
                module._v = _PAGES[module]
                module._v_signature = None

    def _use_own_weight(self, key: str) -> None:
        """Let a module use its own weight, not its page, starting from the stored one."""
        module = comfy.utils.resolve_attr(self.model, key)[0]
        if hasattr(module, "_v"):
            _PAGES[module] = module._v
            del module._v
            for name in ("weight", "bias"):
                setattr(module, f"{name}_lowvram_function", None)
        if key in self.backup:
            comfy.utils.set_attr_param(self.model, key, self.backup[key].weight)

    @contextmanager
    def _stored(self, key: str) -> Iterator[None]:
        """The model's own tensor in the place of the patched one."""
        module, name = comfy.utils.resolve_attr(self.model, key)
        tensors = module._buffers if name in module._buffers else module._parameters
        if key not in self.backup or name not in tensors:
            yield
            return
        loaded, tensors[name] = tensors[name], self.backup[key].weight
        try:
            yield
        finally:
            tensors[name] = loaded


def key_patches(patcher: ModelPatcher, prefix: str | None = None) -> dict[str, list]:
    """Core's ``get_key_patches``, with the stored tensor also where a patched buffer is loaded or a hook is applied.

    Core takes the patched weight for the stored one while a hook changes it. The scales of quantised layers, which a state
    dict has and a model does not, are not listed: core cannot list them either, and they belong to their weight.
    """
    try:
        found = patcher.get_key_patches(prefix)
    except AttributeError:
        if not any(map(is_quantised, patcher.model_state_dict(prefix))):
            raise
        found = None
    if found is None or any(map(is_quantised, found)):
        state = patcher.model_state_dict(prefix)
        found = {key: patches_of(patcher, key) for key in state if not is_quantised(key)}
    hooked = patcher.backup.keys() & patcher.hook_backup.keys()
    stored = {key: patcher.backup[key].weight for key in hooked} | patcher.backup_buffers
    for key in found.keys() & stored.keys():
        found[key][0] = (stored[key], found[key][0][1])
    return found


def stored_tensors(patcher: ModelPatcher, prefix: str | None = None) -> dict[str, torch.Tensor]:
    """A model's tensors without the patches and hooks that may be applied now; a third of the cost of ``key_patches``."""
    state = patcher.model_state_dict(prefix)
    if any(map(is_quantised, state)):
        return {key: patches[0][0] for key, patches in key_patches(patcher, prefix).items()}
    hooked = {
        key: weight for key, (weight, _) in patcher.hook_backup.items()
    }  # before the hook, after the patches
    kept = hooked | {key: backup.weight for key, backup in patcher.backup.items()} | patcher.backup_buffers
    return {key: kept.get(key, value) for key, value in state.items()}
