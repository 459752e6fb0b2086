"""One evaluation of the U-Net: which rows get which context in which layer, worked out beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..blocks.walk import SubBlock
from .entries import Injection
from .mixing import Mix, apply_mixes, join
from .timing import Clock, acts, present

Recipe = tuple[tuple[Mix, ...], ...]  # per chunk, the mixes in order
Contexts = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Chunk:
    """The rows of one conditioning within a batch; ``tokens`` is its prompt's own length before repeating."""

    injections: tuple[Injection, ...]
    rows: int
    tokens: int | None = None


class Pass:
    """The contexts of one evaluation.

    ``context`` is what the blocks will be given (``b t d``), ``source`` the same before the cast to the
    model's dtype: mixing happens on the source, so that the result is what casting a mixed prompt would give.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        context: Tensor,
        source: Tensor,
        recipes: dict[SubBlock, Recipe],
        temporal: bool = False,
    ):
        self.chunks, self.context, self.temporal = chunks, context, temporal
        self.rows = sum(chunk.rows for chunk in chunks)
        self.recipes = recipes
        ready: dict[Recipe, Contexts] = {}
        for recipe in recipes.values():
            if recipe not in ready:
                ready[recipe] = self._mix(recipe, source, source, own_lengths=True)
        self.ready = {sub_block: ready[recipe] for sub_block, recipe in recipes.items()}

    def contexts(self, sub_block: SubBlock, keys: Tensor, values: Tensor) -> Contexts:
        """What the layer attends to, given what it would have; the same objects where nothing acts."""
        if sub_block not in self.recipes:
            return keys, values
        if keys is self.context and values is self.context:
            return self.ready[sub_block]
        return self._mix(self.recipes[sub_block], keys, values, own_lengths=False)

    def _mix(self, recipe: Recipe, keys: Tensor, values: Tensor, own_lengths: bool) -> Contexts:
        mixed_keys, mixed_values, start = [], [], 0
        for chunk, mixes in zip(self.chunks, recipe, strict=True):
            rows = slice(start, start + chunk.rows)
            k = keys[rows]
            v = k if keys is values else values[rows]
            if mixes and own_lengths and chunk.tokens is not None:
                k = v = k[:, : chunk.tokens]
            if mixes:
                k, v = apply_mixes(mixes, k, v)
            mixed_keys.append(k)
            mixed_values.append(v)
            start += chunk.rows
        k, v = join(mixed_keys, mixed_values)
        dtype = self.context.dtype
        cast = k.to(dtype)
        return cast, cast if v is k else v.to(dtype)


def recipes(
    chunks: Sequence[Chunk], clock: Clock, on_device: Callable[[Tensor], Tensor]
) -> dict[SubBlock, Recipe]:
    """Layer -> recipe, for the layers that some injection acts on now."""
    per_chunk = [_mixes(chunk, clock, on_device) for chunk in chunks]
    layers = {sub_block: None for mixes in per_chunk for sub_block in mixes}
    return {sub_block: tuple(tuple(mixes.get(sub_block, ())) for mixes in per_chunk) for sub_block in layers}


def _mixes(chunk: Chunk, clock: Clock, on_device: Callable[[Tensor], Tensor]) -> dict[SubBlock, list[Mix]]:
    found: dict[SubBlock, list[Mix]] = {}
    for injection in chunk.injections:
        prompt, reference = present(injection.prompt, clock), present(injection.reference, clock)
        if prompt is None or (injection.mode == "add" and reference is None):
            continue
        tokens = on_device(prompt.tokens)
        minus = None if reference is None else on_device(reference.tokens)
        shared: dict[
            tuple[float, str], Mix
        ] = {}  # equal mixes are one object, so equal layers share a context
        for sub_block, settings in injection.layers.items():
            for setting in settings:
                if acts(injection, setting, clock):
                    key = (setting.weight, setting.part)
                    if key not in shared:
                        shared[key] = Mix(injection.mode, setting.part, setting.weight, tokens, minus)
                    found.setdefault(sub_block, []).append(shared[key])
    return found
