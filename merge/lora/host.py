"""LoRA by block in ComfyUI: the block of a layer decides the strength of its patch; as MODEL and CLIP or as HOOKS."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.hooks
import comfy.lora
import torch

from ...blocks.host import own_presets
from ...blocks.names import NO_LAYOUT
from .. import elemental as selectors
from ..elemental import Elemental, parse_selectors
from ..errors import MergeError
from ..live.host_incremental import incremental
from ..methods.registry import LARGEST
from .host_files import LoraFile, open_lora
from .host_place import Placed, module_of, place, placed_modules, tensor_name
from .weights import LoraWeights, check, read

TEXT = "text encoder"
ATTACHMENT = "blockwork_lora_files"
LISTED = 8  # names printed per reason


class Loaded(NamedTuple):
    """MODEL and CLIP with a LoRA, the report, and where the LoRA is placed."""

    model: Any
    clip: Any
    report: str
    placed: Placed


class Hooked(NamedTuple):
    """HOOKS of a LoRA, the report, and where the LoRA is placed."""

    hooks: Any
    report: str
    placed: Placed


@dataclass(frozen=True)
class Settings:
    """How the weights text of a node is read."""

    seed: int = 0
    a: float = 1.0
    b: float = 0.0
    elemental: str = ""
    key_map: str = "mbw"


def block_weights(placed: Placed, text: str, settings: Settings) -> tuple[LoraWeights, Elemental]:
    """The weights text and the selectors, read for the placed model."""
    read_weights = read(
        text, placed.layout, seed=settings.seed, a=settings.a, b=settings.b, own_presets=own_presets()
    )
    return read_weights, parse_selectors(_selectors(settings.elemental), placed.layout)


def check_weights(text: str) -> None:
    """BlockError where no model can take a text of LoRA weights."""
    check(text, own_presets())


def check_selectors(text: str) -> None:
    """MergeError where a text of selectors cannot be read for any model."""
    selectors.check_selectors(_selectors(text))


def weight_of(placed: Placed, key: Any, weights: LoraWeights, elemental: Elemental) -> float:
    """The weight of one patch: its block's, unless a selector names it."""
    name, block = tensor_name(key), placed.blocks[key]
    if placed.is_text[key]:
        return _limited(weights.text, TEXT)
    outside = block not in placed.layout.index if placed.layout is not NO_LAYOUT else True
    weight = weights.of(None if block is None or (outside and block not in weights.blocks) else block, name)
    chosen = elemental.ratio(name, block or "", weight)
    return _limited(weight if chosen is None else chosen, block or name)


def _limited(number: float, what: str) -> float:
    """The number, or a MergeError where it is not finite or overflows float32 in the arithmetic."""
    if not abs(number) <= LARGEST:
        raise MergeError(
            f"The weight of {what} is {number:g}. A number from -{LARGEST:g} to {LARGEST:g} is expected. Set a smaller weight."
        )
    return number


def load_by_block(
    model: Any,
    clip: Any,
    name: str,
    strength: float,
    strength_clip: float,
    text: str,
    settings: Settings = Settings(),
) -> Loaded:
    """MODEL and CLIP with the LoRA at ``strength`` times the weight of each block.

    Weight 1 everywhere is core's LoraLoader; weight 0 attaches nothing.
    """
    _check_strengths(strength, strength_clip)
    file = open_lora(name)
    placed = place(file, model, clip, settings.key_map)
    weights, elemental = block_weights(placed, text, settings)
    found = {key: weight_of(placed, key, weights, elemental) for key in placed.patches}
    loaded = incremental(model)
    _attach(loaded, {k: w for k, w in found.items() if not placed.is_text[k]}, placed, strength, file)
    loaded_clip = clip
    if clip is not None:
        loaded_clip = clip.clone()
        loaded_clip.patcher = incremental(clip.patcher)
        texts = {k: w for k, w in found.items() if placed.is_text[k]}
        _attach(loaded_clip.patcher, texts, placed, strength_clip, file)
    return Loaded(loaded, loaded_clip, report(file, placed, found, weights, elemental), placed)


def touched(model: Any, name: str, key_map: str = "mbw") -> list[str]:
    """The blocks of a MODEL that a LoRA changes; MergeError where there are none."""
    placed = place(open_lora(name), model, None, key_map)
    untouched = set(placed.untouched)
    found = [block for block in placed.layout.blocks if block not in untouched]
    if not found:
        raise MergeError(
            f"{name} changes no numbered block of this model. A LoRA with blocks to study is expected. Use another LoRA."
        )
    return found


def hook_by_block(
    model: Any,
    clip: Any,
    name: str,
    strength: float,
    strength_clip: float,
    text: str,
    settings: Settings = Settings(),
    previous: Any = None,
) -> Hooked:
    """HOOKS with the LoRA by block, one of core's weight hooks per distinct weight.

    ``model`` and ``clip`` give the names of keys only.
    """
    _check_strengths(strength, strength_clip)
    file = open_lora(name)
    placed = place(file, model, clip, settings.key_map)
    weights, elemental = block_weights(placed, text, settings)
    found = {key: weight_of(placed, key, weights, elemental) for key in placed.patches}
    parts: defaultdict[float, dict[str, torch.Tensor]] = defaultdict(dict)
    by_module = {module: found[key] for module, key in placed_modules(placed).items()}
    for name_, tensor in file.tensors.items():
        module = module_of(name_, placed.names)
        if module in by_module:
            parts[by_module[module]][name_] = tensor
    group = previous.clone() if previous is not None else comfy.hooks.HookGroup()
    for weight, tensors in sorted(parts.items()):
        if weight:
            hooks = comfy.hooks.create_hook_lora(tensors, strength * weight, strength_clip * weight)
            group = group.clone_and_combine(hooks)
    return Hooked(group, report(file, placed, found, weights, elemental), placed)


def _check_strengths(*strengths: float) -> None:
    for strength in strengths:
        if not math.isfinite(strength):
            raise MergeError(
                f"The strength is {strength}. A finite number is expected. Set another strength."
            )


def _attach(
    patcher: Any, found: Mapping[Any, float], placed: Placed, strength: float, file: LoraFile
) -> None:
    """One ``add_patches`` call per distinct weight: each call walks the whole model."""
    groups: defaultdict[float, dict[Any, Any]] = defaultdict(dict)
    for key, weight in found.items():
        if weight and strength:
            groups[weight][key] = placed.patches[key]
    for weight, patches in groups.items():
        patcher.add_patches(patches, strength * weight)
    kept = tuple(patcher.get_attachment(ATTACHMENT) or ())
    patcher.set_attachments(ATTACHMENT, (*kept, file))


def report(
    file: LoraFile, placed: Placed, found: Mapping[Any, float], weights: LoraWeights, elemental: Elemental
) -> str:
    """What was loaded where, in words: per block its weight and tensors, blocks without tensors, names not loaded."""
    lines = [f"{file.name}: {len(placed.patches)} patches for {placed.layout.name}."]
    if weights.note:
        lines.append(weights.note)
    counts: Counter[tuple[str, float]] = Counter()
    for key, weight in found.items():
        counts[TEXT if placed.is_text[key] else placed.blocks[key] or "no block", weight] += 1
    order = [TEXT, *placed.layout.blocks]
    for (block, weight), count in sorted(counts.items(), key=lambda item: _place(item[0][0], order)):
        lines.append(f"  {block:<12} x {weight:.6g}  ({count} patches)")
    if untouched := placed.untouched:
        lines.append(f"The LoRA does not change {len(untouched)} blocks: {some(untouched)}.")
    keys = [(tensor_name(key), placed.blocks[key] or "") for key in found if not placed.is_text[key]]
    if unused := elemental.unused(keys):
        lines.append(f"No patch matches these entries of elemental: {some(map(str, unused))}.")
    if placed.not_loaded:
        lines.append(
            f"{len(placed.not_loaded)} tensors of the file were not loaded: {some(placed.not_loaded)}."
        )
    return "\n".join(lines)


def _place(block: str, order: list[str]) -> int:
    return order.index(block) if block in order else len(order)


def some(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _selectors(text: str) -> str:
    """Selector lines, with or without the name that LoRA Block Weight writes before them."""
    lines = []
    for line in text.replace("\n", ",").split(","):
        parts = line.split(":")
        lines.append(":".join(parts[1:]) if len(parts) == 4 else line)
    return ",".join(lines)
