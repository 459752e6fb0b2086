"""What a merge does to each tensor, decided from names and shapes before any arithmetic.

There is one planner and there are two executors: ``merge.live`` attaches patches to a MODEL, ``merge.files`` writes a
file. Every tensor of A gets a step: it is kept with a reason, taken from another model, or blended.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..blocks.keymap import block_of
from ..blocks.keys import EMA, MARKERS, OTHER, POSITION_IDS, PREFIXES, VAE_PART, is_quantised, part_of
from ..blocks.names import NO_LAYOUT, Layout
from ..blocks.stacks import diffusion_key
from .errors import MergeError
from .methods import Method
from .methods.registry import seed_for
from .ratios import Ratios, Source, full_name
from .report import Report, letter, some

INPUT_CONV = "input_blocks.0.0.weight"
LATENT = 4  # input channels that all variants share: inpainting adds a mask and an image, ip2p an image
MISMATCH_LIMIT = 8  # more tensors that another model lacks, or has on top, mean another architecture

KEPT = "kept from A"
NOT_NAMED = "not named by the weights"
UNCHANGED = "unchanged by their ratio"
NOT_FLOAT = "not floating point"
NOT_A_WEIGHT = "not a weight to average"
OUTSIDE = "not part of U-Net, text encoder or VAE"
QUIET = (NOT_NAMED, UNCHANGED, OUTSIDE)  # reasons that are counted; the others list the tensors


@dataclass(frozen=True)
class Keep:
    """A's tensor, bit for bit."""

    reason: str


@dataclass(frozen=True)
class Take:
    """The tensor of the model at this place, in the dtype of the result."""

    source: int


@dataclass(frozen=True)
class Blend:
    """The method's result; ``channels`` limits it to the first channels of dimension 1, the others stay A's."""

    ratios: Mapping[str, float]
    channels: int | None = None


Step = Keep | Take | Blend
_NOT_NAMED = Keep(NOT_NAMED)


@dataclass
class Plan:
    """The step of every tensor of A, and the report."""

    method: Method
    options: Mapping[str, float]
    seed: int
    notes: Report
    steps: dict[str, Step] = field(default_factory=dict)
    layout: Layout = NO_LAYOUT

    @property
    def merged(self) -> dict[str, Take | Blend]:
        """The tensors that are not kept."""
        return {key: step for key, step in self.steps.items() if not isinstance(step, Keep)}

    @property
    def kept(self) -> dict[str, list[str]]:
        """The tensors that are kept by reason."""
        found: dict[str, list[str]] = {}
        for key, step in self.steps.items():
            if isinstance(step, Keep):
                found.setdefault(step.reason, []).append(key)
        return found

    def report(self) -> str:
        """The plan in words."""
        return self.notes.text()

    def seed_of(self, key: str) -> int | None:
        """The seed of a tensor for methods that draw at random: the same live and in a file."""
        return seed_for(self.seed, full_name(key)) if self.method.seeded else None

    def measured(self) -> Iterator[str]:
        """The tensors that the method's survey looks at, all but the VAE's."""
        for key, step in self.steps.items():
            if isinstance(step, Blend) and not step.channels and part_of(key) != VAE_PART:
                yield key

    def keep(self, key: str, reason: str) -> None:
        """Leave a tensor to A after all."""
        self.notes.merged -= 1
        self.steps[key] = Keep(reason)
        self.notes.list(f"{KEPT}, {reason}", key)


def make_plan(
    title: str,
    sources: Sequence[Source],
    ratios: Ratios,
    *,
    options: Mapping[str, float] | None = None,
    seed: int = 0,
    keys: Sequence[str] | None = None,
    keep: Callable[[str], str | None] = lambda key: None,
    copy: Callable[[str], bool] = lambda key: False,
) -> Plan:
    """Plan a merge of ``sources``, A first; only names, shapes and dtypes are looked at.

    ``keys`` are those of A that the result has (default: all), ``keep`` gives a reason to keep one, ``copy`` says
    whether a tensor that A lacks is taken from another model. Raises MergeError
    for models of different architectures, numbers that the method cannot use, and where nothing can be merged.
    """
    method = ratios.method
    if not method.least <= len(sources) <= (method.most or len(sources)):
        wanted = f"{method.least}" if method.most == method.least else f"at least {method.least}"
        raise MergeError(f"{title}: {method.name} takes {wanted} models, {len(sources)} are given.")
    _refuse_foreign(sources, ratios.layout)
    plan = Plan(method, dict(options or {}), seed, Report(title), layout=ratios.layout)
    _check_numbers(plan, {})
    for block, count in ratios.look_at(sources[0].entries).items():
        plan.notes.remark(
            f"{block} is bypassed: {count} tensors at the end of its residual branches are multiplied by 0."
        )
    # Ratios: which model they choose, and their text.
    seen: dict[tuple[float, ...], tuple[Step, str]] = {}
    lacking: dict[str, list[str]] = {}
    for key in sources[0].entries if keys is None else keys:
        block, found = ratios.of(key)
        chosen, text = _NOT_NAMED, ""
        if block is not None and found is not None:
            numbers = tuple(found.values())
            if numbers not in seen:
                _check_numbers(plan, found, block)
                seen[numbers] = _chosen(method.passthrough(found), found), method.text(found)
            chosen, text = seen[numbers]
        step = _step(sources, key, block, found, chosen, ratios, keep(key))
        plan.steps[key] = step
        size = math.prod(sources[0].entries[key].shape)
        plan.notes.all_parameters += size
        if not isinstance(step, Keep):
            plan.notes.in_block(str(block), text, size)
            if isinstance(step, Blend) and step.channels:
                plan.notes.list(f"merged in the first {step.channels} channels, the others kept from A", key)
        elif step.reason not in QUIET:
            plan.notes.list(f"{KEPT}, {step.reason}", key)
            if step.reason.startswith(("missing in", "other shape in")):
                lacking.setdefault(step.reason, []).append(key)
    _refuse_nothing(plan, lacking)
    _note(plan, sources, ratios, copy)
    return plan


def _chosen(index: int | None, ratios: Mapping[str, float]) -> Step:
    """The step for ratios that give the model at ``index``, or for None a mixture."""
    if index is None:
        return Blend(ratios)
    return Take(index) if index else Keep(UNCHANGED)


def _step(
    sources: Sequence[Source],
    key: str,
    block: str | None,
    ratios: Mapping[str, float] | None,
    chosen: Step,
    table: Ratios,
    reason: str | None,
) -> Step:
    entry, part = sources[0].entries[key], part_of(key)
    whole = table.whole is not None or table.layout is NO_LAYOUT
    if part == EMA or (part == OTHER and not whole):
        return Keep(OUTSIDE)
    if reason is not None:
        return Keep(reason)
    if key.endswith(POSITION_IDS) or is_quantised(key):
        return Keep(NOT_A_WEIGHT)
    if not entry.dtype.is_floating_point:
        return Keep(NOT_FLOAT)
    if block is None:
        return Keep(f"in no block under key_map {table.key_map}")
    if ratios is None or isinstance(chosen, Keep):
        return chosen
    needed = (chosen.source,) if isinstance(chosen, Take) else range(1, len(sources))
    for number in needed:
        if key not in sources[number].entries:
            return Keep(f"missing in {letter(number)}")
    shape = entry.shape
    other = next((n for n in needed if sources[n].entries[key].shape != shape), None)
    if other is None:
        return chosen
    if _is_wider_input(key, shape, sources[other].entries[key].shape):
        return Blend(ratios, LATENT)
    return Keep(f"other shape in {letter(other)}")


def _is_wider_input(key: str, first: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether this is the input convolution of a U-Net, and the other model's has another number of channels."""
    return (
        key.endswith(INPUT_CONV)
        and len(first) == len(other)
        and first[:1] + first[2:] == other[:1] + other[2:]
        and min(first[1], other[1]) >= LATENT
    )


def _check_numbers(plan: Plan, ratios: Mapping[str, float], block: str = "") -> None:
    """MergeError for numbers that the method cannot use, before anything is computed."""
    method = plan.method
    try:
        method.checked(ratios or (method.identity or dict.fromkeys(method.ratios, 0.0)), plan.options)
    except ValueError as error:
        where = f"{plan.notes.title}, {block}" if block else plan.notes.title
        raise MergeError(f"{where}: {method.name} cannot use these numbers. {error}") from None


def _refuse_foreign(sources: Sequence[Source], layout: Layout) -> None:
    """MergeError where the diffusion models are not of one architecture, or the sources have nothing in common."""
    first = sources[0]
    inside = _diffusion_keys(first)
    for other in sources[1:]:
        found = inside if other.entries.keys() == first.entries.keys() else _diffusion_keys(other)
        if not any(key in other.entries for key in first.entries):
            raise MergeError(
                f"{first.name} and {other.name} have no tensors in common. Use models of one kind."
            )
        if not (inside and found):
            continue
        _refuse_shapes(first, other, inside & found, layout)
        for keys, having, lacking in ((inside - found, first, other), (found - inside, other, first)):
            if len(keys) > MISMATCH_LIMIT:
                raise MergeError(
                    f"{having.name} has {len(keys)} tensors that {lacking.name} lacks, the first is {min(keys)}. "
                    "These are different architectures. Use models of one kind."
                )


def _diffusion_keys(source: Source) -> set[str]:
    """The keys of the diffusion model; MergeError where the file holds only its moving average."""
    found = {key for key in source.entries if diffusion_key(key) is not None and not is_quantised(key)}
    if not found and any(key.startswith(PREFIXES[EMA]) for key in source.entries):
        raise MergeError(
            f"{source.name} holds its U-Net only as a moving average (model_ema.). Use the full checkpoint."
        )
    return found


def _refuse_shapes(first: Source, other: Source, shared: set[str], layout: Layout) -> None:
    """MergeError for other shapes in a block, or in more than a few layers outside: those are a variant's own."""
    odd, in_blocks = [], False
    for key in shared:
        here, there = first.entries[key].shape, other.entries[key].shape
        if here == there:
            continue
        if not _is_wider_input(key, here, there):
            odd.append(key)
            in_blocks |= block_of(key, layout, "comfy") in layout.index
        elif there[1] > here[1]:
            raise MergeError(
                f"{other.name} has {there[1]} input channels, {first.name} has {here[1]}. "
                "Make the inpainting or edit model the first model (A)."
            )
    if in_blocks or len(odd) > MISMATCH_LIMIT:
        key = min(odd)
        shapes = f"{list(first.entries[key].shape)} and {list(other.entries[key].shape)}"
        raise MergeError(
            f"{first.name} and {other.name} have {len(odd)} tensors of other shapes, the first is {key} ({shapes}). "
            "These are different architectures. Use models of one kind."
        )


def _refuse_nothing(plan: Plan, lacking: Mapping[str, list[str]]) -> None:
    """MergeError where tensors were to be merged and none could be."""
    for reason, keys in lacking.items():
        if not plan.merged:
            raise MergeError(
                f"Nothing can be merged: {len(keys)} tensors have this reason: {reason}. The first is {keys[0]}."
            )


def _note(plan: Plan, sources: Sequence[Source], ratios: Ratios, copy: Callable[[str], bool]) -> None:
    """The counts of the report, tensors that only other models have, and names that address nothing."""
    notes = plan.notes
    kept = [step.reason for step in plan.steps.values() if isinstance(step, Keep)]
    notes.total, notes.merged = len(plan.steps), len(plan.steps) - len(kept)
    for reason in QUIET:
        notes.count(f"{KEPT}, {reason}", kept.count(reason))
    notes.order(ratios.layout.blocks)
    for number, other in enumerate(sources[1:], start=1):
        for key in other.entries:
            known = key in sources[0].entries or key in plan.steps
            if known or part_of(key) == EMA or key in MARKERS or is_quantised(key):
                continue
            if copy(key):
                plan.steps[key] = Take(number)
                notes.list(f"copied from {letter(number)}, A lacks them", key)
            else:
                notes.list(f"left out, only {letter(number)} has them", key)
    if unused := ratios.unused():
        notes.warnings.append(
            f"{some(unused)} {'has' if len(unused) == 1 else 'have'} a weight, but under key_map {ratios.key_map} "
            "no tensor of these models is in it."
        )
    if unused := ratios.unused_selectors():
        notes.warnings.append(f"No tensor matches these entries of elemental: {some(unused)}.")
