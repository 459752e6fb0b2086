"""Block specs: one line of text that says which cross-attention layers are meant.

=====================================  =========================================================
``IN07``  ``M00`` ``MID``  ``OUT3``      a block by the field's name (``B07`` in transformers)
``IN00-OUT11``  ``OUT03-OUT11(+2)``      a range in running order, every second block of it
``input:7``  ``output:1``  ``middle:0``  ComfyUI's names (``blocks.7`` in transformers)
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

Items are separated by commas, semicolons or line breaks, in any case and in ASCII or full width. Where two items
name the same layer, the later one wins at the times and in the part (keys, values) that both name; the rest of
the earlier one stays. A list of block weights (25 numbers and its relatives, or a preset's name; see
``blocks.weights``) is a spec too.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from . import presets, weights
from .names import MIDDLE, BlockError
from .numbers import is_number, number, number_text
from .spec_names import Fault, Selector
from .walk import ModelBlocks, SubBlock

Part = Literal["kv", "k", "v"]
Unit = Literal["percent", "step"]
Settings = tuple["Setting", ...]
SHORTEST_LIST = 10  # fewer numbers than this are resolutions: "8, 16"
LONGEST = 4000  # characters of a spec
LARGEST_WEIGHT = 100.0  # beyond it half precision overflows in the model
LAST_STEP = 10000  # "to the end", as in ComfyUI's advanced sampler

_BLOCK_LIKE = re.compile(r"(IN|OUT|M|B)\d+$")  # presets OUT07, OUT12: as specs these are blocks
_SEPARATORS = ",;\n"
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    0x3001: ",",
    0x301C: "~",
}


class SpecError(BlockError):
    """A block spec that cannot be read; the message shows the text with a caret under the place."""

    def __init__(self, problem: str, text: str, start: int, end: int, hint: str):
        line_start = text.rfind("\n", 0, start) + 1
        line = text[line_start:].split("\n", 1)[0]
        first = max(line_start, start - 60)  # long lines are cut around the place
        shown = line[first - line_start : first - line_start + 160]
        width = max(1, min(end, first + len(shown)) - start)
        caret = " " * (start - first) + "^" + "~" * (width - 1)
        super().__init__(f"{problem}\n    {shown}\n    {caret}\n{hint}")
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
        start, end = number_text(self.start), number_text(self.end)
        return f"@{'s' if self.unit == 'step' else ''}{start}-{end}"


@dataclass(frozen=True)
class Setting:
    """What an item asks of the layers it names."""

    weight: float = 1.0
    part: Part = "kv"
    window: Window | None = None  # None: as the caller says

    def text(self) -> str:
        """The suffixes that read back as this setting."""
        weight = "" if self.weight == 1 else f"={number_text(self.weight)}"
        window = "" if self.window is None else self.window.text()
        return weight + window + ("" if self.part == "kv" else f"/{self.part}")


@dataclass(frozen=True)
class Spec:
    """A read spec: cross-attention layer -> its settings; no two of one layer meet in time and part."""

    text: str
    settings: Mapping[SubBlock, Settings]
    skipped: tuple[str, ...] = ()  # blocks with a weight in a list that have no cross-attention
    rest: frozenset[SubBlock] = frozenset()  # the layers that only ``_`` names

    @property
    def weights(self) -> dict[SubBlock, float]:
        """Layer -> weight, the last one where windows part a layer."""
        return {sub: settings[-1].weight for sub, settings in self.settings.items()}


def parse(text: str, model_blocks: ModelBlocks) -> Spec:
    """Read ``text`` for a walked model: ``parse("M00=0.5", walk(unet)).weights == {("middle", 0, 0): 0.5}``.

    Raises SpecError, which points at the place and names the blocks there are.
    """
    given, text = text, folded(text)
    hint = valid_names(model_blocks)
    if len(text) > LONGEST:
        problem = f"The block spec has {len(text)} characters; the limit is {LONGEST}."
        raise SpecError(problem, text, 0, 20, hint)
    if _is_weight_list(text, model_blocks):
        return _from_weights(given, text, model_blocks)
    items = _split(text)
    if not items:
        raise SpecError("The block spec is empty.", text, 0, 1, hint)
    selector = Selector(model_blocks)
    chosen: dict[SubBlock, Settings] = {}
    otherwise: Settings = ()
    for start, end in items:
        try:
            setting, body = _setting(text, start, end)
            if body == "_":
                otherwise = later_wins(otherwise, setting)
                continue
            layers = selector.select(body)
            ready: dict[int, Settings] = {}  # layers with the same settings so far get the same new ones
            for sub in layers:
                old = chosen.get(sub, ())
                if id(old) not in ready:
                    ready[id(old)] = later_wins(old, setting)
                chosen[sub] = ready[id(old)]
        except Fault as fault:
            raise SpecError(fault.problem, text, start + fault.start, start + fault.end, hint) from None
    rest = frozenset(model_blocks.sub_blocks) - chosen.keys() if otherwise else frozenset[SubBlock]()
    order = {
        sub: chosen.get(sub, otherwise) for sub in model_blocks.sub_blocks if sub in chosen or sub in rest
    }
    return Spec(given, order, rest=rest)


def folded(text: str) -> str:
    """``text`` with full-width letters, digits and punctuation as ASCII, character for character."""
    return text.translate(_FULL_WIDTH)


def later_wins(settings: Settings, new: Setting) -> Settings:
    """``settings`` without what ``new`` takes over (its times, its part), and ``new`` after them.

    Raises Fault where one is timed in steps and the other in shares: which comes first is not known then.
    """
    return (*(left for old in settings for left in _without(old, new)), new)


def valid_names(model_blocks: ModelBlocks) -> str:
    """The sentence that lists what can be named, for errors and help."""
    blocks = " ".join(
        block.name if block.depth == 1 else f"{block.name}.0-{block.depth - 1}"
        for block in model_blocks.attending
    )
    names = " ".join(Selector(model_blocks).groups)
    return f"Blocks of this model with cross-attention: {blocks}. Groups: {names}."


def _split(text: str) -> list[tuple[int, int]]:
    """Spans of the items, stripped; commas inside parentheses do not separate."""
    spans, depth, start = [], 0, 0
    for place, character in enumerate(text + ","):
        depth = max(0, depth + (character == "(") - (character == ")"))
        if character in _SEPARATORS and (depth == 0 or place == len(text)):
            inside = text[start:place]
            if inside.strip():
                lead = len(inside) - len(inside.lstrip())
                spans.append((start + lead, start + len(inside.rstrip())))
            start, depth = place + 1, 0
    return spans


def _setting(text: str, start: int, end: int) -> tuple[Setting, str]:
    """The setting that ``=``, ``@`` and ``/`` ask for, and the selection before them."""
    marks = [place for place in range(start, end) if text[place] in "=@/"]
    setting, seen = Setting(), set[str]()
    for place, stop in zip(marks, [*marks[1:], end], strict=False):
        mark, value = text[place], text[place + 1 : stop].strip().lower()
        spot = (place - start, stop - start)
        if mark in seen:
            raise Fault(f"{mark} is given twice in one item.", *spot)
        seen.add(mark)
        setting = _with(setting, mark, value, spot)
    return setting, text[start : marks[0] if marks else end].rstrip()


def _with(setting: Setting, mark: str, value: str, spot: tuple[int, int]) -> Setting:
    if mark == "/":
        if value not in get_args(Part):
            raise Fault(f"Unknown part {value!r}; /k is keys only, /v values only, /kv both.", *spot)
        return replace(setting, part=value)  # pyright: ignore[reportArgumentType]  (checked above)
    if mark == "=":
        if not is_number(value):
            raise _unreadable(mark + value, spot)
        weight = _number(value)
        if abs(weight) > LARGEST_WEIGHT:
            raise Fault(f"The weight {_short(value)} is too large; weights lie between -100 and 100.", *spot)
        return replace(setting, weight=weight)
    unit: Unit = "step" if value.startswith("s") else "percent"
    ends = value.removeprefix("s").split("-")
    if len(ends) != 2 or not all(is_number(end) for end in ends):
        raise _unreadable(mark + value, spot)
    first, last = (_number(end) for end in ends)
    if first >= last:
        raise Fault(f"The window @{_short(value)} is empty: its start must be before its end.", *spot)
    if unit == "percent" and last > 1:
        problem = (
            f"The window @{_short(value)} goes beyond 1.0; write shares of the sampling, or @s3-8 for steps."
        )
        raise Fault(problem, *spot)
    if unit == "step" and not (first.is_integer() and last.is_integer() and last <= LAST_STEP):
        problem = f"The window @{_short(value)} counts sampler steps: whole numbers up to {LAST_STEP}."
        raise Fault(problem, *spot)
    return replace(setting, window=Window(first, last, unit))


def _number(text: str) -> float:
    """The number a text writes; infinite where it is beyond the range of numbers."""
    try:
        return number(text)
    except ValueError:
        return math.inf


def _unreadable(text: str, spot: tuple[int, int]) -> Fault:
    return Fault(
        f"Cannot read {_short(text)!r}; expected =weight, @start-end, @sfirst-last, /k or /v.", *spot
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _without(old: Setting, new: Setting) -> list[Setting]:
    """What is left of ``old`` where ``new`` takes over."""
    common = "".join(letter for letter in old.part if letter in new.part)
    if not common:
        return [old]
    kept = "".join(letter for letter in old.part if letter not in new.part)
    left = [replace(old, part=kept)] if kept else []  # pyright: ignore[reportArgumentType]  (letters of a part)
    if new.window is None:
        return left
    whole = Window() if new.window.unit == "percent" else Window(0, LAST_STEP, "step")
    window = old.window or whole
    if window.unit != new.window.unit:
        raise Fault("One layer is timed in steps and in shares of the sampling; use one of the two.", 0, 1)
    if not window.meets(new.window):
        return [old]
    before = Window(window.start, new.window.start, window.unit)
    after = Window(new.window.end, window.end, window.unit)
    pieces = [one for one in (before, after) if one.start < one.end]
    return left + [replace(old, part=common, window=one) for one in pieces]  # pyright: ignore[reportArgumentType]


def _is_weight_list(text: str, model_blocks: ModelBlocks) -> bool:
    name = text.strip()
    if name in presets.names(model_blocks.layout) and not _BLOCK_LIKE.match(name):
        return True
    return _is_list_of_numbers(text)


def _is_list_of_numbers(text: str) -> bool:
    first = text.split(",", SHORTEST_LIST)[:SHORTEST_LIST]
    return len(first) == SHORTEST_LIST and all(is_number(one) for one in first)


def _from_weights(given: str, text: str, model_blocks: ModelBlocks) -> Spec:
    read = weights.parse(text, model_blocks.layout)
    settings: dict[SubBlock, Settings] = {}
    skipped = []
    for block in model_blocks.blocks:
        weight = read.of(MIDDLE if block.side == "middle" else block.name, 0.0)
        if abs(weight) > LARGEST_WEIGHT:
            problem = f"The weight of {block.name} is {weight:g}; weights lie between -100 and 100."
            raise SpecError(problem, text, 0, len(text), valid_names(model_blocks))
        if weight and not block.depth:
            skipped.append(block.name)
        elif weight:
            settings |= {sub: (Setting(weight),) for sub in block.sub_blocks}
    skipped += [name for name, weight in read.extra if weight]
    return Spec(given, settings, tuple(skipped))
