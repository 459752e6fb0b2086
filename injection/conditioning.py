"""Reads ComfyUI's CONDITIONING (a list of ``[tokens, options]``) as prompts to inject; plain data."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..blocks.spec import Window
from ..blocks.walk import ModelBlocks
from .entries import InjectionError, Stretch
from .mixing import batch_rows

Conditioning = list[list[Any]]

# What places or changes a whole evaluation cannot be given to single layers of it.
PLACES = {
    "area": "an area",
    "mask": "a mask",
    "gligen": "GLIGEN boxes",
    "control": "a ControlNet",
    "unclip_conditioning": "unCLIP images",
    "default": "the mark of a default conditioning",
}
# What the text paths of models read beside the tokens, kept with an injected prompt.
TEXT_OPTIONS = (
    *("t5xxl_ids", "t5xxl_weights", "attention_mask", "seconds_start", "seconds_total"),
    *("conditioning_mt5xl", "attention_mask_mt5xl", "unprocessed_ltxav_embeds"),
)


def stretches(conditioning: Conditioning, blocks: ModelBlocks, what: str = "prompt") -> tuple[Stretch, ...]:
    """The prompts of a CONDITIONING with the windows they are scheduled for.

    Raises InjectionError when an entry is bound to a place (area, mask, ControlNet ...), has no tokens, was
    encoded for another kind of model, or carries block prompts itself.
    """
    if not conditioning:
        raise InjectionError(
            f"The {what} is empty: there is no conditioning in it. Connect an encoded prompt."
        )
    return tuple(_stretch(tokens, options, blocks, what) for tokens, options in conditioning)


def _stretch(tokens: Any, options: dict[str, Any], blocks: ModelBlocks, what: str) -> Stretch:
    if not isinstance(tokens, Tensor):
        raise InjectionError(
            f"The {what} has no text embedding, so there is nothing to attend to. Connect an encoded prompt."
        )
    for key, name in PLACES.items():
        if options.get(key) is not None and options[key] is not False:
            raise InjectionError(
                f"The {what} comes with {name}. A block attends to a text only. Give {name} to the conditioning "
                "that is injected into, and connect a plain prompt here."
            )
    if options.get("strength", 1.0) != 1.0:
        raise InjectionError(
            f"The {what} comes with a strength of {options['strength']:g}, which belongs to a whole conditioning. Set "
            "it on the conditioning that is injected into, or use the weight of this node."
        )
    if options.get("model_conds"):
        raise InjectionError(
            f"The {what} carries block prompts (or another node's model conditions) itself. Connect it as the "
            "conditioning to inject into, or connect its plain prompt here."
        )
    if blocks.context and tokens.shape[-1] != blocks.context:
        raise InjectionError(
            f"The {what} is {tokens.shape[-1]} numbers wide per token, and this model's layers take "
            f"{blocks.context}: it was encoded with another kind of model's CLIP. Encode it with the CLIP of this "
            "checkpoint."
        )
    start = max(options.get("start_percent", 0.0), options.get("clip_start_percent", 0.0))
    end = min(options.get("end_percent", 1.0), options.get("clip_end_percent", 1.0))
    return Stretch(
        tokens,
        Window(start, end),
        options.get("pooled_output"),
        options.get("cross_attn_controlnet"),
        options.get("hooks"),
        {key: options[key] for key in TEXT_OPTIONS if options.get(key) is not None},
    )


def check_pooled(prompt: Sequence[Stretch]) -> None:
    """InjectionError when a prompt has no pooled embedding to inject."""
    if any(stretch.pooled is None for stretch in prompt):
        raise InjectionError(
            "The prompt has no pooled embedding to inject (SDXL's text encoders make one). Set 'pooled' to base."
        )


def mixed_pooled(base: Tensor | None, pooled: Tensor, weight: float) -> Tensor:
    """``(1 - w) base + w pooled``, ``b d``; exactly ``pooled`` at w = 1 or where the base has none."""
    if weight == 1 or base is None:
        return pooled
    rows = max(base.shape[0], pooled.shape[0])
    base, pooled = (batch_rows(one[:, None], rows)[:, 0] for one in (base, pooled))
    return base * (1 - weight) + pooled.to(base) * weight
