"""Fits injections to ComfyUI's sampling.

The injections are carried by the conditioning, as one opaque object in its ``model_conds``: that dict is the only
part of a conditioning that ComfyUI never copies to the other side of the guidance (areas), and it is batched with
the rows it belongs to. So whichever way a guider orders, splits or repeats its passes, every row knows its own
injections. Three pieces, attached to the model once:

- around ``calc_cond_batch`` (``host_batch``): works out what acts now, and gives conditionings without injections an
  empty object, so that batches stay whole;
- around ``apply_model`` (``host_pass``): works out all contexts of this pass (``passes.Pass``);
- in cross-attention (``host_layers``, ``host_transformers``, ``host_slots``, ``host_modules``): hands each layer its context.

A fourth, around the whole sampling, holds what a run remembers and serves the injections that a model carries
for conditionings by name.
"""

import math
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..blocks.walk import ModelBlocks
from .entries import InjectionError
from .host_batch import calc_cond_batch
from .host_carry import KEY, CONDInjections, Run
from .host_pass import apply_model
from .host_transformers import layers_of

BY_NAME_KEY = KEY + "_by_name"


def blocks_of(model: ModelPatcher) -> ModelBlocks:
    """The blocks of a loaded model; NotAUNet for models without cross-attention blocks that can be addressed."""
    return layers_of(model.model).blocks(model.model)


def prepare(model: ModelPatcher) -> ModelPatcher:
    """A clone of ``model`` that carries out injections; a model that already does is cloned as it is."""
    model = model.clone()
    if not model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calc_cond_batch)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)
    layers_of(model.model).attach(model)
    return model


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around a sampling run: a fresh memory, and the changes a model makes to conditionings by name."""
    guider = executor.class_obj
    run = guider.model_options["transformer_options"][KEY] = Run()
    for name, changes in guider.model_options.get(BY_NAME_KEY, {}).items():
        if name not in guider.conds:
            raise InjectionError(
                f"The model injects into the conditioning {name!r}, but this guider has "
                f"{', '.join(map(repr, guider.conds))}. Choose one of these."
            )
        for change in changes:
            guider.conds[name] = [change(entry) for entry in guider.conds[name]]
    for name, entries in guider.conds.items():
        guider.conds[name] = [_checked(entry, name, run) for entry in entries]
    _warn_of_unused_negative(guider, run)
    return executor(*args, **kwargs)


def _checked(entry: dict[str, Any], name: str, run: Run) -> dict[str, Any]:
    """The entry with its injections named by side, and without those whose conditioning was zeroed after them."""
    carried = entry.get("model_conds", {}).get(KEY)
    if carried is None:
        return entry
    kept, tokens = carried.cond, entry.get("cross_attn")
    if any(not one.on_zeros for one in kept) and is_zero(tokens):
        kept = tuple(one for one in kept if one.on_zeros)
        run.warn(
            f"The {name} conditioning was set to zeros after a prompt was injected into it. The injection is off "
            "there. To inject into zeros, use Conditioning Zero Out first and inject after it."
        )
    return {**entry, "model_conds": {**entry["model_conds"], KEY: CONDInjections(kept, side=name)}}


def is_zero(tokens: Any) -> bool:
    """Whether a prompt's embedding is there and holds nothing but zeros."""
    return isinstance(tokens, Tensor) and not bool(tokens.any())


def _warn_of_unused_negative(guider: Any, run: Run) -> None:
    cfg, options = getattr(guider, "cfg", None), guider.model_options
    if cfg is None or not math.isclose(cfg, 1.0) or options.get("disable_cfg1_optimization", False):
        return
    for entry in guider.conds.get("negative") or ():
        carried = entry.get("model_conds", {}).get(KEY)
        if carried is not None and carried.cond:
            run.warn("A prompt is injected into the negative, but at CFG 1 the negative is not evaluated.")
