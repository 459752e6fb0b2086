"""Where a model's blocks take their text, one class per kind of model.

A kind of model says which blocks it has, where our patch is attached, and how a pass reaches its layers. Which
kind a model is, is read off its classes.
"""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..blocks.walk import ModelBlocks, walk
from .entries import InjectionError
from .host_carry import PASS_KEY
from .passes import Pass

# Nothing that decides per pass may stand in a traced region: torch.compile re-uses what it traced for other blocks.
untraced: Any = torch.compiler.disable


class UNetLayers:
    """U-Nets of SD1, SD2, SDXL and relatives: ComfyUI's list of ``attn2_patch``."""

    repeats = True  # a text may be repeated to the length of another, which changes no attention to it
    plain_text = True  # a prompt's tokens reach the model as they are in the CONDITIONING

    def blocks(self, model: Any) -> ModelBlocks:
        """The blocks of the model."""
        config = getattr(getattr(model, "model_config", None), "unet_config", None) or {}
        return walk(model.diffusion_model, config.get("image_size"))

    def attach(self, model: ModelPatcher) -> None:
        """Put our patch on the model once; two branches of one workflow may each bring it."""
        in_front(model.model_options["transformer_options"], attn2_patch)

    def prepared(self, model: Any, made: dict[str, Any], device: torch.device) -> Tensor:
        """The tokens of a prompt as the model's blocks or text layers take them, from what ``extra_conds`` made."""
        return made["c_crossattn"].cond

    def enter(self, options: dict[str, Any], model: Any, current: Pass) -> None:
        """Lead the layers of this pass to their contexts, by ``options``, a copy made for the pass."""
        in_front(options, attn2_patch)


def in_front(options: dict[str, Any], patch: Any) -> None:
    """Put ``patch`` first among the ``attn2_patch`` of some options, once.

    Patches that take a context apart (NegPip) or spread its rows (couples) then see the injected one.
    """
    patches = dict(options.get("patches", {}))
    patches["attn2_patch"] = [
        patch,
        *(other for other in patches.get("attn2_patch", []) if other is not patch),
    ]
    options["patches"] = patches


@untraced
def attn2_patch(n: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """In cross-attention: the contexts this layer is to see; inputs untouched where nothing acts."""
    current = extra.get(PASS_KEY)
    if current is None or not own_rows(current, n, k):
        return n, k, v
    side, number = extra["block"]
    return n, *current.contexts((side, number, extra.get("block_index", 0)), k, v)


def own_rows(current: Pass, n: Tensor, k: Tensor) -> bool:
    """Whether the rows are those of the pass; False in layers over time, InjectionError elsewhere."""
    if n.shape[0] == current.rows == k.shape[0]:
        return True
    if current.temporal:
        return False
    raise InjectionError(
        f"A layer of this model sees {k.shape[0]} rows of text where the pass has {current.rows}: another node "
        "changes them first, so which rows belong to which prompt is not known. Remove that node, or the block "
        "prompts."
    )
