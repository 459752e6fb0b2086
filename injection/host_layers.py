"""Where a model's blocks take their text, one class per kind of model.

A kind of model says which blocks it has, where our patch is attached, and how a pass reaches its layers. Which
kind a model is, is read off its classes.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..blocks.walk import ModelBlocks, walk
from .entries import InjectionError, Stretch
from .host_carry import PASS_KEY
from .passes import Pass

# Nothing that decides per pass may stand in a traced region: torch.compile re-uses what it traced for other blocks.
untraced: Any = torch.compiler.disable


# Stands for the text that the model pools by itself, among the layers of a pass.
POOLED = ("pooled", 0, 0)


@dataclass
class Call:
    """One call of a model: what it was given, and what is undone when it returns."""

    options: dict[str, Any]  # the transformer options, a copy made for the call
    model: Any
    given: Mapping[str, Any]  # the other keyword arguments
    stack: ExitStack


class UNetLayers:
    """U-Nets of SD1, SD2, SDXL and relatives: ComfyUI's list of ``attn2_patch``."""

    repeats = True  # a text may be repeated to the length of another, which changes no attention to it
    plain_text = True  # a prompt's tokens reach the model as they are in the CONDITIONING
    text_key = "c_crossattn"  # what ``extra_conds`` calls the tokens, and the pooled embedding
    pooled_key = "y"
    beside: ClassVar[dict[str, str]] = {}  # what else of a prompt the blocks read: name in conds -> option
    masks: ClassVar[frozenset[str]] = frozenset()  # those of them that are masks ``b t``
    pools: str | None = None  # what the model pools by itself: the tokens (""), or a name in ``beside``

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

    def tokens(self, conds: Mapping[str, Any]) -> Tensor | None:
        """The tokens of a conditioning, from its ``model_conds``."""
        return None if conds.get(self.text_key) is None else conds[self.text_key].cond

    def batched(self, context: Tensor | None, given: Mapping[str, Any]) -> Tensor | None:
        """The tokens of a batch, from the arguments of ``apply_model``."""
        return context

    def part_of(self, stretch: Stretch, name: str) -> Tensor:
        """What an injected prompt has of one of ``beside``; InjectionError where it has none."""
        found = (stretch.options or {}).get(self.beside[name])
        if found is None and name in self.masks:
            return torch.ones(stretch.tokens.shape[:2], dtype=torch.long)
        if found is None:
            raise InjectionError(
                f"The injected prompt has no {self.beside[name]!r}, which this model reads beside the text. Encode it "
                "with the CLIP of this checkpoint."
            )
        return found

    def enter(self, call: Call, current: Pass) -> None:
        """Lead the layers of this pass to their contexts."""
        in_front(call.options, attn2_patch)


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
