"""One evaluation of a model: which rows get which context in which layer, worked out beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..blocks.walk import SubBlock
from .entries import Injection, Stretch
from .mixing import Mix, apply_mixes, common_length, join, mixed_lengths
from .timing import Clock, acts, present

Mixes = tuple[Mix, ...]  # of one layer, in order
Recipe = tuple[Mixes, ...]  # of one layer, chunk by chunk
Contexts = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Chunk:
    """The rows of one conditioning within a batch, with what is mixed into them in this evaluation.

    ``tokens`` is the length of its own prompt before ComfyUI repeats it to join a batch. ``repeats`` says whether a
    text may be repeated at all: not where text tokens attend to each other inside the model. ``beside`` is the same
    for what belongs to the prompt besides its tokens: its mask, the states of a second encoder.
    """

    mixes: dict[SubBlock, Mixes] = field(default_factory=dict)
    rows: int = 1
    tokens: int | None = None
    repeats: bool = True
    beside: Mapping[str, "Chunk"] = field(default_factory=dict)

    @property
    def lengths(self) -> set[int]:
        """The token counts of the contexts that its layers see."""
        if self.tokens is None:
            return set()
        return {self.tokens, *(mixed_lengths(mixes, self.tokens) for mixes in set(self.mixes.values()))}

    def of_rows(self, rows: int) -> "Chunk":
        """The same for a batch of so many rows."""
        beside = {name: chunk.of_rows(rows) for name, chunk in self.beside.items()}
        return replace(self, rows=rows, beside=beside)

    def fits(self, other: "Chunk") -> bool:
        """Whether ComfyUI would evaluate contexts of the two chunks' lengths in one batch."""
        pairs = ((a, b) for a in self.lengths for b in other.lengths)
        fit = all(a == b or (self.repeats and common_length(a, b) is not None) for a, b in pairs)
        return fit and all(
            one.fits(other.beside[name]) for name, one in self.beside.items() if name in other.beside
        )


@dataclass(frozen=True, eq=False)
class Act:
    """An injection that acts now: the entries of its schedules that hold, and its settings layer by layer."""

    injection: Injection
    prompt: Stretch
    reference: Stretch | None


def acting(injections: Sequence[Injection], clock: Clock) -> list[Act]:
    """The injections that act on some layer now, in order."""
    found = []
    for injection in injections:
        if not any(
            acts(injection, s, clock) for s in {s for all_ in injection.layers.values() for s in all_}
        ):
            continue
        prompt, reference = present(injection.prompt, clock), present(injection.reference, clock)
        if prompt is not None and (injection.mode != "add" or reference is not None):
            found.append(Act(injection, prompt, reference))
    return found


def mixes_of(
    acts_now: Sequence[Act], clock: Clock, tokens_of: Callable[[Stretch], Tensor], mask: bool = False
) -> dict[SubBlock, Mixes]:
    """Layer -> mixes, for the layers that some injection acts on now; equal layers share one tuple.

    ``mask``: what is mixed are the masks of the prompts.
    """
    found: dict[SubBlock, Mixes] = {}
    shared: dict[tuple[Mixes, Mix], Mixes] = {}
    for act in acts_now:
        injection, ready = act.injection, dict[tuple[float, str], Mix]()
        tokens = tokens_of(act.prompt)
        minus = tokens_of(act.reference) if injection.mode == "add" and act.reference else None
        for sub_block, settings in injection.layers.items():
            for setting in settings:
                if not acts(injection, setting, clock):
                    continue
                key = (setting.weight, setting.part)
                if key not in ready:
                    whole = injection.mode == "concat" or (minus is None and setting.weight == 1)
                    mode = "union" if mask and not whole else injection.mode
                    ready[key] = Mix(mode, setting.part, setting.weight, tokens, minus)
                before = found.get(sub_block, ())
                step = (before, ready[key])
                found[sub_block] = shared.setdefault(step, (*before, ready[key]))
    return found


class Pass:
    """The contexts of one evaluation.

    ``context`` is what the blocks will be given (``b t d``), ``source`` the same before the cast to the model's
    dtype: mixing happens on the source, so that the result is what casting a mixed prompt would give.
    ``on_device`` moves a prompt's tensor to the device of the evaluation.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        context: Tensor,
        source: Tensor,
        on_device: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        temporal: bool = False,
    ):
        self.context, self.temporal = context, temporal
        self.beside: dict[str, Pass] = {}  # the same for what belongs to the prompts besides their tokens
        self.pooled: Tensor | None = None  # the text that the model pools by itself, where that changes
        self.rows = sum(chunk.rows for chunk in chunks)
        moved = {
            mix: replace(
                mix,
                tokens=on_device(mix.tokens),
                reference=None if mix.reference is None else on_device(mix.reference),
            )
            for mix in {mix for chunk in chunks for mixes in chunk.mixes.values() for mix in mixes}
        }
        self.chunks = [
            replace(
                chunk,
                mixes={sub: tuple(moved[mix] for mix in mixes) for sub, mixes in chunk.mixes.items()},
            )
            for chunk in chunks
        ]
        layers = {sub: None for chunk in chunks for sub in chunk.mixes}
        self.recipes: dict[SubBlock, Recipe] = {
            sub: tuple(chunk.mixes.get(sub, ()) for chunk in self.chunks) for sub in layers
        }
        ready: dict[Recipe, Contexts] = {}
        for recipe in self.recipes.values():
            if recipe not in ready:
                ready[recipe] = self._mix(recipe, source, source, own_lengths=True)
        self.ready = {sub_block: ready[recipe] for sub_block, recipe in self.recipes.items()}

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
