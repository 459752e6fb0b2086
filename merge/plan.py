"""What a merge does to each tensor, decided from names and shapes before any arithmetic.

Nothing is dropped or left alone in silence: every tensor of A is merged, provably unchanged, or kept with a
reason that ``Plan.report`` prints.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..blocks.keymap import block_of
from ..blocks.names import Layout, layout_of
from .errors import MergeError

Parameters = tuple[float, ...]
Tensors = Mapping[str, torch.Tensor]

INPUT_CONV = "input_blocks.0.0.weight"
LATENT = 4  # input channels that all variants share: inpainting adds a mask and an image, ip2p an image
MISMATCH_LIMIT = 8  # odd shapes beyond this many mean another architecture, not a variant
LISTED = 12  # names printed per reason


@dataclass(frozen=True)
class Rule:
    """How a method is steered: per block its parameters, which of them change nothing, and how to print them."""

    of_block: Callable[[str], Parameters]
    identity: Parameters
    formula: str  # with {0}, {1} for the parameters: "{0} A + {1} B"
    apart: frozenset[str] = frozenset()  # names outside the layout that were weighted: BASE, TIME_EMBED, ...

    def text(self, parameters: Parameters) -> str:
        return self.formula.format(*(f"{value:.6g}" for value in parameters))


@dataclass
class Plan:
    """The parameters of every tensor that changes, and why the others do not."""

    title: str
    rule: Rule
    merged: dict[str, Parameters] = field(default_factory=dict)
    block_sizes: dict[str, Counter[Parameters]] = field(default_factory=dict)
    unchanged: int = 0
    kept: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def keep(self, reason: str, key: str) -> None:
        self.kept.setdefault(reason, []).append(key)

    def report(self) -> str:
        """The plan in words, for a person."""
        total = len(self.merged) + self.unchanged + sum(map(len, self.kept.values()))
        lines = [
            self.title,
            f"{len(self.merged)} of {total} tensors merged, {self.unchanged} unchanged by their ratio; "
            "float32 arithmetic, rounded once.",
            *(f"WARNING: {warning}" for warning in self.warnings),
        ]
        for block, sizes in self.block_sizes.items():
            for parameters, size in sizes.items():
                lines.append(f"  {block:<10} {self.rule.text(parameters)}  ({size} tensors)")
        for reason, keys in self.kept.items():
            shown = ", ".join(keys[:LISTED]) + (
                f", and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
            )
            lines.append(f"{len(keys)} {reason}: {shown}")
        return "\n".join(lines)


def plan_unet(title: str, models: Sequence[Tensors], rule: Rule, key_map: str = "mbw") -> Plan:
    """Plan a block-weighted merge of U-Nets: ``models[0]`` is A, the others are read.

    ``models`` hold tensors by ComfyUI key; only shapes and dtypes are looked at. MergeError when the models
    have different blocks, a weighted block is missing, or A has fewer input channels than another.
    """
    layout = _common_layout(models)
    _refuse_foreign(models)
    plan = Plan(title, rule, block_sizes={name: Counter() for name in layout.blocks})
    for key in models[0]:
        block = block_of(key, layout, key_map)
        if block is None:
            plan.keep(f"kept from A, in no block under key_map {key_map}", key)
        else:
            _decide(plan, key, block, models)
    _refuse_nothing(plan)
    _note_extra_keys(plan, models)
    plan.block_sizes = {name: sizes for name, sizes in plan.block_sizes.items() if sizes}
    for name in sorted(rule.apart - set(plan.block_sizes)):
        plan.warnings.append(
            f"{name} was given a weight, but under key_map {key_map} no tensor of this U-Net is in it"
        )
    return plan


def plan_whole(
    title: str, models: Sequence[Tensors], rule: Rule, part: str, skip: Callable[[str], str | None]
) -> Plan:
    """Plan a merge with one ratio for a whole text encoder or VAE; ``skip`` gives the reason to leave a key alone."""
    plan = Plan(title, rule, block_sizes={part: Counter()})
    for number, tensors in enumerate(models[1:], start=1):
        if not set(models[0]) & set(tensors):
            raise MergeError(
                f"{_letter(number)} shares no tensor with A: these are different kinds of {part}"
            )
    for key in models[0]:
        reason = skip(key)
        if reason:
            plan.keep(f"kept from A, {reason}", key)
        else:
            _decide(plan, key, part, models)
    _refuse_nothing(plan)
    _note_extra_keys(plan, models)
    return plan


def _decide(plan: Plan, key: str, block: str, models: Sequence[Tensors]) -> None:
    """File one tensor of A under merged, unchanged or kept."""
    a = models[0][key]
    parameters = plan.rule.of_block(block)
    if not a.is_floating_point():
        plan.keep("kept from A, not floating point", key)
        return
    if parameters == plan.rule.identity:
        plan.unchanged += 1
        plan.block_sizes.setdefault(block, Counter())[parameters] += 1
        return
    for number, tensors in enumerate(models[1:], start=1):
        if key not in tensors:
            plan.keep(f"kept from A, missing in {_letter(number)}", key)
            return
        if not _fits(key, a, tensors[key], number):
            shapes = f"{tuple(a.shape)} in A, {tuple(tensors[key].shape)} in {_letter(number)}"
            plan.keep(f"kept from A, shaped differently in {_letter(number)}", f"{key} ({shapes})")
            return
    if any(tensors[key].shape != a.shape for tensors in models[1:]):
        plan.warnings.append(
            f"A has {a.shape[1]} input channels; the first {LATENT} are merged, the others are A's ({key})"
        )
    plan.merged[key] = parameters
    plan.block_sizes.setdefault(block, Counter())[parameters] += 1


def _fits(key: str, a: torch.Tensor, other: torch.Tensor, number: int) -> bool:
    """Equal shapes, or the input convolution of a model with fewer input channels than A."""
    if a.shape == other.shape:
        return True
    if not key.endswith(INPUT_CONV) or a.shape[0] != other.shape[0] or a.shape[2:] != other.shape[2:]:
        return False
    if other.shape[1] > a.shape[1]:
        raise MergeError(
            f"{_letter(number)} has {other.shape[1]} input channels (an inpainting or edit model) and A only "
            f"{a.shape[1]}: make the model with more channels A, or the merge would lose them"
        )
    return True


def _common_layout(models: Sequence[Tensors]) -> Layout:
    layouts = [layout_of(tensors) for tensors in models]
    for number, layout in enumerate(layouts[1:], start=1):
        if layout.blocks != layouts[0].blocks:
            raise MergeError(
                f"A is {layouts[0].describe()}, {_letter(number)} is {layout.describe()}: "
                "only models with the same blocks can be merged"
            )
    return layouts[0]


def _refuse_foreign(models: Sequence[Tensors]) -> None:
    """Raise where shapes differ in more than a variant's few tensors, whatever the ratios."""
    for number, tensors in enumerate(models[1:], start=1):
        odd = [
            key for key, a in models[0].items() if key in tensors and not _fits(key, a, tensors[key], number)
        ]
        if len(odd) > MISMATCH_LIMIT:
            raise MergeError(
                f"{len(odd)} tensors are shaped differently in {_letter(number)}, first {odd[0]}: "
                "these are different architectures"
            )


def _refuse_nothing(plan: Plan) -> None:
    """Raise where tensors were to be merged and none could be."""
    for reason, keys in plan.kept.items():
        if not plan.merged and ("missing in" in reason or "shaped differently" in reason):
            why = reason.removeprefix("kept from A, ")
            raise MergeError(f"all {len(keys)} tensors to merge are {why}, first {keys[0]}")


def _note_extra_keys(plan: Plan, models: Sequence[Tensors]) -> None:
    for number, tensors in enumerate(models[1:], start=1):
        extra = [key for key in tensors if key not in models[0]]
        if extra:
            letter = _letter(number)
            shown = ", ".join(extra[:LISTED]) + (
                f", and {len(extra) - LISTED} more" if len(extra) > LISTED else ""
            )
            plan.warnings.append(f"{len(extra)} tensors only {letter} has are left out: {shown}")


def _letter(number: int) -> str:
    return "ABCDEFG"[number]
