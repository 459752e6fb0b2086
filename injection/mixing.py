"""The arithmetic of injection: contexts ``b t d`` in, keys' and values' contexts out.

Repeating a context whole leaves attention as it is: with every token n times, numerator and denominator of
the softmax both grow n-fold. Padding with zeros does not (a zero key still takes its share of the softmax),
so contexts of different lengths meet at the least common multiple of their lengths, as in ComfyUI. Where that is
more than four times the shorter one, ComfyUI evaluates them apart; within one context that is mixed, the first stays
whole and the other is repeated and cut to its length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..blocks.spec import Part
from .entries import Mode

LIMIT = 4  # ComfyUI's own, in comfy.conds: how often a context may be repeated to join a batch


@dataclass(frozen=True, eq=False)
class Mix:
    """One change to the context of a layer, with everything it needs at hand: tensors ``b t d``.

    Mode ``union`` is for masks of texts that are mixed: a token counts where any of them has one.
    """

    mode: Mode | Literal["union"]
    part: Part
    weight: float
    tokens: Tensor
    reference: Tensor | None = None


def common_length(first: int, second: int) -> int | None:
    """The least common multiple, as long as it is at most four times the shorter length; None beyond."""
    length = math.lcm(first, second)
    return length if length // min(first, second) <= LIMIT else None


def pair_length(first: int, second: int) -> int:
    """Tokens of a mix: the common length, or the fewest whole repeats of ``first`` that ``second`` fits in."""
    return common_length(first, second) or first * -(-second // first)


def fit_tokens(context: Tensor, length: int) -> Tensor:
    """``b t d -> b length d``: the context over and over, cut at ``length``."""
    have = context.shape[1]
    return context if have == length else context.repeat(1, -(-length // have), 1)[:, :length]


def same_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    """All contexts repeated to the least common multiple of their token counts."""
    length = math.lcm(*(context.shape[1] for context in contexts))
    return [fit_tokens(context, length) for context in contexts]


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
    length = pair_length(base.shape[1], tokens.shape[1])
    base, tokens = fit_tokens(base, length), fit_tokens(tokens, length)
    return base * (1 - weight) + tokens * weight


def add(base: Tensor, tokens: Tensor, reference: Tensor, weight: float) -> Tensor:
    """``base + w (tokens - reference)``: move the prompt along a direction."""
    step = pair_length(tokens.shape[1], reference.shape[1])
    length = pair_length(base.shape[1], step)
    base, tokens, reference = (fit_tokens(one, length) for one in (base, tokens, reference))
    return base + weight * (tokens - reference)


def union(masks: Sequence[Tensor]) -> Tensor:
    """Masks ``b t 1``, each met with the first as a mix meets texts: the larger value of each token."""
    found = masks[0]
    for mask in masks[1:]:
        length = pair_length(found.shape[1], mask.shape[1])
        found = torch.maximum(fit_tokens(found, length), fit_tokens(mask, length))
    return found


def mixed(mix: Mix, base: Tensor) -> Tensor:
    """What becomes of one context under one mix."""
    tokens = batch_rows(mix.tokens, base.shape[0])
    if mix.mode == "union":
        others = [] if mix.reference is None else [batch_rows(mix.reference, base.shape[0])]
        return union([base, union([tokens, *others])])
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


def mixed_lengths(mixes: Sequence[Mix], tokens: int) -> int:
    """Tokens of the context that ``mixes`` make of one with ``tokens``, without making it."""
    keys = values = tokens
    for mix in mixes:
        keys, values = (
            _mixed_length(mix, have) if half in mix.part else have
            for half, have in (("k", keys), ("v", values))
        )
    return keys if keys == values else pair_length(max(keys, values), min(keys, values))


def _mixed_length(mix: Mix, have: int) -> int:
    given = mix.tokens.shape[1]
    if mix.mode == "concat":
        return have + given
    if mix.reference is not None:
        return pair_length(have, pair_length(given, mix.reference.shape[1]))
    return given if mix.weight == 1 and mix.mode != "union" else pair_length(have, given)


def even(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer at one token count: token i of the one stays with token i of the other."""
    if keys.shape[1] == values.shape[1]:
        return keys, values
    lengths = sorted((keys.shape[1], values.shape[1]))
    length = pair_length(lengths[1], lengths[0])
    return fit_tokens(keys, length), fit_tokens(values, length)


def join(keys: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Chunks one below the other, all at one token count; one tensor twice where keys and values agree."""
    if all(k is v for k, v in zip(keys, values, strict=True)):
        both = torch.cat(same_length(keys))
        return both, both
    pairs = [even(k, v) for k, v in zip(keys, values, strict=True)]
    return torch.cat(same_length([k for k, _ in pairs])), torch.cat(same_length([v for _, v in pairs]))
