"""Reads ComfyUI's CONDITIONING (a list of ``[tokens, options]``) as prompts to inject; plain data."""

from typing import Any

from torch import Tensor

from ..blocks.spec import Window
from ..blocks.walk import UNetBlocks
from .entries import InjectionError, Stretch
from .mixing import batch_rows

Conditioning = list[list[Any]]

# What places or changes a whole evaluation cannot be given to single layers of it.
PLACES = {
    "area": "an area",
    "mask": "a mask",
    "gligen": "GLIGEN boxes",
    "control": "a ControlNet",
    "hooks": "hooks",
}


def stretches(conditioning: Conditioning, blocks: UNetBlocks, what: str = "prompt") -> tuple[Stretch, ...]:
    """The prompts of a CONDITIONING with the windows they are scheduled for.

    Raises InjectionError when an entry is bound to a place (area, mask, ControlNet ...), has no tokens, was
    encoded for another kind of model, or carries block prompts itself.
    """
    if not conditioning:
        raise InjectionError(f"the {what} is empty: there is no conditioning in it.")
    return tuple(_stretch(tokens, options, blocks, what) for tokens, options in conditioning)


def _stretch(tokens: Any, options: dict[str, Any], blocks: UNetBlocks, what: str) -> Stretch:
    if not isinstance(tokens, Tensor):
        raise InjectionError(f"the {what} has no text embedding, so there is nothing to attend to.")
    for key, name in PLACES.items():
        if options.get(key) is not None:
            raise InjectionError(
                f"the {what} comes with {name}. A block attends to a text only: give {name} to the "
                "conditioning that is injected into, and a plain prompt here."
            )
    if options.get("model_conds"):
        raise InjectionError(
            f"the {what} carries block prompts (or another node's model conditions) itself. Connect it as "
            "the conditioning to inject into, or use its plain prompt here."
        )
    if tokens.shape[-1] != blocks.context:
        raise InjectionError(
            f"the {what} is {tokens.shape[-1]} numbers wide per token, this model's layers take "
            f"{blocks.context}: it was encoded with another kind of model's CLIP. Encode it with the CLIP of "
            "this checkpoint."
        )
    start = max(options.get("start_percent", 0.0), options.get("clip_start_percent", 0.0))
    end = min(options.get("end_percent", 1.0), options.get("clip_end_percent", 1.0))
    return Stretch(tokens, Window(start, end))


def pooled_of(conditioning: Conditioning) -> Tensor:
    """The pooled embedding ``b d`` of a CONDITIONING's first entry; InjectionError when it has none."""
    pooled = conditioning[0][1].get("pooled_output")
    if pooled is None:
        raise InjectionError(
            "the prompt has no pooled embedding to inject (SDXL's text encoders make one). "
            "Set 'pooled' to base."
        )
    return pooled


def mixed_pooled(base: Tensor | None, pooled: Tensor, weight: float) -> Tensor:
    """``(1 - w) base + w pooled``, ``b d``; exactly ``pooled`` at w = 1 or where the base has none."""
    if weight == 1 or base is None:
        return pooled
    rows = max(base.shape[0], pooled.shape[0])
    base, pooled = (batch_rows(one[:, None], rows)[:, 0] for one in (base, pooled))
    return base * (1 - weight) + pooled.to(base) * weight
