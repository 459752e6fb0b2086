"""Block specs: one line of text that says which cross-attention layers are meant.

=====================================  =========================================================
``IN07``  ``M00`` ``MID``  ``OUT3``      a block by the field's name
``IN00-OUT11``  ``OUT03-OUT11(+2)``      a range in running order, every second block of it
``input:7``  ``output:1``  ``middle:0``  ComfyUI's names
``d2``  ``m0``  ``u0``                   the n-th block with cross-attention going down, in the middle, up
``idx:6``                              the n-th of all (``transformer_index``)
``up_blocks.0.attentions.1``           diffusers' names
``(16,down,1)``                        P+ coordinates: resolution, direction, place
``all down mid up coarse fine 8 16``   groups; a number is a resolution
``IN07.3``  ``output:1.3-9``             inner layers of a block that has several
``_``                                  every block that no other item names
``...=0.5  ...@0.0-0.4  ...@s3-8  ...`` weight, share of the sampling, sampler steps,
``.../k  .../v``                       keys only, values only
=====================================  =========================================================

Items are separated by commas, semicolons or line breaks, in any case; where two name the same layer (at the
same time), the later one wins. A list of block weights (25 numbers and its relatives, or a preset's name;
see ``blocks.weights``) is a spec too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from . import presets, weights
from .names import MIDDLE, BlockError
from .spec_names import Fault, groups, select
from .walk import SubBlock, UNetBlocks

Part = Literal["kv", "k", "v"]
Unit = Literal["percent", "step"]
SHORTEST_LIST = 10  # fewer numbers than this are resolutions: "8, 16"

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SUFFIXES = re.compile(rf"\s*(?:=\s*{_NUMBER}|@\s*s?\s*[\d.]+\s*-\s*[\d.]+|/\s*\w+)(?=\s*(?:[=@/]|$))")
_WEIGHT_LIST = re.compile(rf"\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*){{{SHORTEST_LIST - 1},}}(?:,|$)")
_BLOCK_LIKE = re.compile(r"(IN|OUT|M)\d+$")  # presets OUT07, OUT12: as specs these are blocks
_SEPARATORS = ",;\n"


class SpecError(BlockError):
    """A block spec that cannot be read; the message shows the text with a caret under the place."""

    def __init__(self, problem: str, text: str, start: int, end: int, hint: str):
        line_start = text.rfind("\n", 0, start) + 1
        line = text[line_start:].split("\n", 1)[0]
        width = max(1, min(end, line_start + len(line)) - start)
        caret = " " * (start - line_start) + "^" + "~" * (width - 1)
        super().__init__(f"{problem}\n    {line}\n    {caret}\n{hint}")
        self.problem, self.start, self.end, self.hint = problem, start, end, hint

    def within(self, text: str, offset: int) -> "SpecError":
        """The same error for a larger ``text`` in which the spec stands at ``offset``."""
        return SpecError(self.problem, text, self.start + offset, self.end + offset, self.hint)


@dataclass(frozen=True)
class Window:
    """A stretch of the sampling, half open: from ``start`` up to but not including ``end``."""

    start: float = 0.0
    end: float = 1.0
    unit: Unit = "percent"

    def meets(self, other: "Window") -> bool:
        """Whether the two may act at the same time (steps and percent cannot be told apart)."""
        return self.unit != other.unit or (self.start < other.end and other.start < self.end)

    def text(self) -> str:
        """The spec's own way to write it; empty for the whole sampling."""
        if self == Window():
            return ""
        return f"@{'s' if self.unit == 'step' else ''}{self.start:g}-{self.end:g}"


@dataclass(frozen=True)
class Setting:
    """What an item asks of the layers it names."""

    weight: float = 1.0
    part: Part = "kv"
    window: Window | None = None  # None: as the caller says


@dataclass(frozen=True)
class Spec:
    """A read spec: cross-attention layer -> its settings (several only in different windows)."""

    text: str
    settings: Mapping[SubBlock, tuple[Setting, ...]]
    skipped: tuple[str, ...] = ()  # blocks with a weight in a list that have no cross-attention

    @property
    def weights(self) -> dict[SubBlock, float]:
        """Layer -> weight, the last one where windows part a layer."""
        return {sub: settings[-1].weight for sub, settings in self.settings.items()}


def parse(text: str, model_blocks: UNetBlocks) -> Spec:
    """Read ``text`` for a walked model: ``parse("M00=0.5", walk(unet)).weights == {("middle", 0, 0): 0.5}``.

    Raises SpecError, which points at the place and names the blocks there are.
    """
    if _is_weight_list(text, model_blocks):
        return _from_weights(text, model_blocks)
    items = _split(text)
    if not items:
        raise SpecError("The block spec is empty.", text, 0, 1, valid_names(model_blocks))
    chosen: dict[SubBlock, tuple[Setting, ...]] = {}
    otherwise: Setting | None = None
    for start, end in items:
        setting, body_end = _suffixes(text, start, end, model_blocks)
        if text[start:body_end] == "_":
            otherwise = setting
            continue
        for sub in _selected(text, start, body_end, model_blocks):
            kept = tuple(old for old in chosen.get(sub, ()) if not _clash(old, setting))
            chosen[sub] = (*kept, setting)
    if otherwise is not None:
        for sub in model_blocks.sub_blocks:
            chosen.setdefault(sub, (otherwise,))
    order = {sub: chosen[sub] for sub in model_blocks.sub_blocks if sub in chosen}
    return Spec(text, MappingProxyType(order))


def valid_names(model_blocks: UNetBlocks) -> str:
    """The sentence that lists what can be named, for errors and help."""
    blocks = " ".join(
        block.name if block.depth == 1 else f"{block.name}.0-{block.depth - 1}"
        for block in model_blocks.attending
    )
    return f"Blocks of this model with cross-attention: {blocks}. Groups: {' '.join(groups(model_blocks))}."


def _split(text: str) -> list[tuple[int, int]]:
    """Spans of the items, stripped; commas inside parentheses do not separate."""
    spans, depth, start = [], 0, 0
    for place, character in enumerate(text + ","):
        depth += (character == "(") - (character == ")")
        if character in _SEPARATORS and (depth <= 0 or place == len(text)):
            inside = text[start:place]
            if inside.strip():
                lead = len(inside) - len(inside.lstrip())
                spans.append((start + lead, start + len(inside.rstrip())))
            start, depth = place + 1, 0
    return spans


def _suffixes(text: str, start: int, end: int, model_blocks: UNetBlocks) -> tuple[Setting, int]:
    """The setting that ``=``, ``@`` and ``/`` ask for, and where the selection before them ends."""
    setting = Setting()
    marks = [place for place in range(start, end) if text[place] in "=@/"]
    if not marks:
        return setting, end
    place = marks[0]
    while place < end:
        match = _SUFFIXES.match(text[:end], place)
        if match is None:
            expected = "=weight, @start-end, @sfirst-last, /k or /v"
            problem = f"Cannot read {text[place:end].strip()!r}; expected {expected}."
            raise SpecError(problem, text, place, end, valid_names(model_blocks))
        token = re.sub(r"\s", "", match.group()).lower()
        try:
            setting = _with(setting, token)
        except ValueError as error:
            where = match.start() + len(match.group()) - len(match.group().lstrip())
            raise SpecError(str(error), text, where, match.end(), valid_names(model_blocks)) from None
        place = match.end() + len(text[match.end() : end]) - len(text[match.end() : end].lstrip())
    return setting, start + len(text[start : marks[0]].rstrip())


def _with(setting: Setting, token: str) -> Setting:
    mark, value = token[0], token[1:]
    if mark == "=":
        return replace(setting, weight=float(value))
    if mark == "/":
        if value not in get_args(Part):
            raise ValueError(f"Unknown part {value!r}; /k is keys only, /v values only, /kv both.")
        return replace(setting, part=value)  # pyright: ignore[reportArgumentType]  (checked above)
    unit: Unit = "step" if value.startswith("s") else "percent"
    first, last = (float(number) for number in value.removeprefix("s").split("-"))
    if first >= last:
        raise ValueError(f"The window {token} is empty: its start must lie before its end.")
    if unit == "percent" and last > 1:
        raise ValueError(
            f"The window {token} goes beyond 1.0; write shares of the sampling, or @s3-8 for steps."
        )
    if unit == "step" and not (first.is_integer() and last.is_integer()):
        raise ValueError(f"The window {token} counts sampler steps, which are whole numbers.")
    return replace(setting, window=Window(first, last, unit))


def _clash(old: Setting, new: Setting) -> bool:
    return old.window is None or new.window is None or old.window.meets(new.window)


def _selected(text: str, start: int, end: int, model_blocks: UNetBlocks) -> tuple[SubBlock, ...]:
    try:
        return select(text[start:end], model_blocks)
    except Fault as fault:
        first, last = start + fault.start, start + fault.end
        raise SpecError(fault.problem, text, first, last, valid_names(model_blocks)) from None


def _is_weight_list(text: str, model_blocks: UNetBlocks) -> bool:
    name = text.strip()
    is_preset = name in presets.names(model_blocks.layout) and not _BLOCK_LIKE.match(name)
    return is_preset or bool(_WEIGHT_LIST.match(text))


def _from_weights(text: str, model_blocks: UNetBlocks) -> Spec:
    given = weights.parse(text, model_blocks.layout)
    settings: dict[SubBlock, tuple[Setting, ...]] = {}
    skipped = []
    for block in model_blocks.blocks:
        weight = given.of(MIDDLE if block.side == "middle" else block.name, 0.0)
        if weight and not block.depth:
            skipped.append(block.name)
        elif weight:
            settings |= {sub: (Setting(weight),) for sub in block.sub_blocks}
    skipped += [name for name, weight in given.extra if weight]
    return Spec(text, MappingProxyType(settings), tuple(skipped))
