"""The arithmetic of injection: contexts ``b t d`` in, keys' and values' contexts out.

Repeating a context whole leaves attention as it is: with every token n times, numerator and denominator of
the softmax both grow n-fold. Padding with zeros does not (a zero key still takes its share of the softmax),
so contexts of different lengths meet at the least common multiple of their lengths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blocks.spec import Part
from .entries import Mode


@dataclass(frozen=True, eq=False)
class Mix:
    """One change to the context of a layer, with everything it needs at hand: tensors ``b t d``."""

    mode: Mode
    part: Part
    weight: float
    tokens: Tensor
    reference: Tensor | None = None


def repeat_tokens(context: Tensor, length: int) -> Tensor:
    """``b t d -> b length d``: the whole context over and over; ``length`` is a multiple of t."""
    return context if context.shape[1] == length else context.repeat(1, length // context.shape[1], 1)


def same_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    """All contexts repeated to the least common multiple of their token counts."""
    length = math.lcm(*(context.shape[1] for context in contexts))
    return [repeat_tokens(context, length) for context in contexts]


def batch_rows(context: Tensor, rows: int) -> Tensor:
    """``b t d -> rows t d``: one prompt for every image, several in turn (as ComfyUI repeats batches)."""
    have = context.shape[0]
    if have == rows:
        return context
    if have == 1:
        return context.expand(rows, -1, -1)
    return context.repeat(-(-rows // have), 1, 1)[:rows]


def lerp(base: Tensor, tokens: Tensor, weight: float) -> Tensor:
    """``(1 - w) base + w tokens`` for any w; exactly ``tokens`` at w = 1."""
    if weight == 1:
        return tokens
    base, tokens = same_length([base, tokens])
    return base * (1 - weight) + tokens * weight


def add(base: Tensor, tokens: Tensor, reference: Tensor, weight: float) -> Tensor:
    """``base + w (tokens - reference)``: move the prompt along a direction."""
    base, tokens, reference = same_length([base, tokens, reference])
    return base + weight * (tokens - reference)


def mixed(mix: Mix, base: Tensor) -> Tensor:
    """What becomes of one context under one mix."""
    tokens = batch_rows(mix.tokens, base.shape[0])
    if mix.mode == "concat":
        return torch.cat([base, tokens], dim=1)
    if mix.mode == "add":
        assert mix.reference is not None
        return add(base, tokens, batch_rows(mix.reference, base.shape[0]), mix.weight)
    return lerp(base, tokens, mix.weight)


def apply_mixes(mixes: Sequence[Mix], keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Apply mixes one on the result of the other; keys and values stay one tensor while no mix parts them."""
    for mix in mixes:
        together = keys is values
        new_keys = mixed(mix, keys) if "k" in mix.part else keys
        new_values = (
            new_keys if together and mix.part == "kv" else mixed(mix, values) if "v" in mix.part else values
        )
        keys, values = new_keys, new_values
    return keys, values


def join(keys: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Chunks one below the other, all at one token count; one tensor twice where keys and values agree."""
    if all(k is v for k, v in zip(keys, values, strict=True)):
        both = torch.cat(same_length(keys))
        return both, both
    even = same_length([*keys, *values])
    return torch.cat(even[: len(keys)]), torch.cat(even[len(keys) :])
