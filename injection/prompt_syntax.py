"""Block prompts in a sentence: ``a (~: IN00-OUT11: cute; M00: excellent :~) girl``.

A bracket ``(~: ... :~)`` lists, separated by ``;``, what is written at its place in which blocks: a block spec, a
colon, a text. Where several name a block the later one wins at the times and in the part that both name; ``_``
names the blocks no other one does; blocks that none names have nothing there. The texts may carry ComfyUI's own
weights, ``(word:1.3)``, and a bracket may be inside such a weight. The spec's weights, windows and parts say how
strongly, when and to which half of attention the sentence with that text is given. Brackets, colons and semicolons
may be full width; the words stay as they are. The grammar extends that of dumpunet (hnmr293).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..blocks import spec_check
from ..blocks.spec import Part, Setting, Spec, SpecError, Window, folded, later_wins, parse
from ..blocks.spec_names import Fault
from ..blocks.walk import ModelBlocks, SubBlock
from .report import layer_names

OPEN, CLOSE = re.compile(r"(?<!\\)\(~:"), re.compile(r":~\)")
NEARLY_OPEN = re.compile(r"(?<!\\)(\()\s{0,8}:\s{0,8}~|(?<!\\)([(\[{<])\s{0,8}~\s{0,8}(:?)")
NEARLY_CLOSED = re.compile(r":\s{0,8}~\s{0,8}[)\]}>]")
WEIGHT = re.compile(r":\s{0,8}[-+]?[0-9.]{1,10}\s{0,8}$")  # ComfyUI's own: (words:1.2)
RATIO = re.compile(r"\d\s{0,8}:\s{0,8}\d")
BLOCK_FIRST = re.compile(
    r"\s{0,8}(?:(?:IN|OUT|M|B)\d{1,3}\b|MID\b|(?:input|output|middle|idx)[:.]\d)", re.IGNORECASE
)
HINT = "Block prompts are written (~: blocks: text; blocks: text :~), with _ for all other blocks."
PLAIN_HINT = r"Write \( for a plain parenthesis."
NAME_BEFORE_COLON = re.compile(
    r"\b(?:input|output|middle|idx|(?:[a-z]{1,20}_)?blocks?|layers)(?:_blocks?)?\s*$", re.I
)
LONGEST = 20000  # characters of a prompt
NEAR = 400  # characters after (~ in which a colon makes it a near miss
PLAIN = Setting()
Choice = tuple[Setting, str]


@dataclass(frozen=True)
class Variant:
    """A sentence that some layers get instead of the base one."""

    text: str
    layers: tuple[SubBlock, ...]
    weight: float = 1.0
    part: Part = "kv"
    window: Window | None = None

    @property
    def setting(self) -> Setting:
        """How, in which half and when the sentence acts."""
        return Setting(self.weight, self.part, self.window)

    @property
    def spec(self) -> Spec:
        """The layers with their weight, part and window, as a read block spec."""
        return Spec(self.text, dict.fromkeys(self.layers, (self.setting,)))

    def blocks_text(self, blocks: ModelBlocks) -> str:
        """The layers with their weight, part and window as the text of a block spec."""
        names = layer_names(self.layers, blocks)
        names = "all" if names == "all blocks" else names
        return ", ".join(name + self.setting.text() for name in names.split(", "))


@dataclass(frozen=True)
class BlockPrompt:
    """A read prompt: the sentence of the layers that nothing else is said of, and the others in order."""

    base: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class _Bracket:
    """One bracket: ``base`` is its text where nothing else is chosen."""

    start: int
    end: int
    base: str
    choices: dict[SubBlock, tuple[Choice, ...]]

    def at(self, layer: SubBlock, half: str, window: Window | None) -> Choice:
        """What is written for a half of a layer over a stretch in which its choices do not change."""
        for setting, words in self.choices.get(layer, ()):
            if half in setting.part and (
                setting.window is None or window is None or setting.window.meets(window)
            ):
                return setting, words
        return PLAIN, self.base


def read(text: str, blocks: ModelBlocks) -> BlockPrompt:
    """Read a prompt for a walked model; SpecError points at what cannot be read."""
    if len(text) > LONGEST:
        problem = f"The prompt has {len(text)} characters; the limit is {LONGEST}."
        raise SpecError(problem, text, 0, 20, HINT)
    brackets = [_bracket(text, start, end, blocks) for start, end in _spans(text)]
    base = _sentence(text, brackets, [bracket.base for bracket in brackets])
    found: dict[tuple[str, float, str, Window | None], list[SubBlock]] = {}
    for layer in blocks.sub_blocks:
        for window in _segments(brackets, layer, text):
            steps = {half: _steps(text, brackets, base, layer, half, window) for half in "kv"}
            if steps["k"] == steps["v"]:
                steps = {"kv": steps["k"]}
            for half, sentences in steps.items():
                for sentence, weight in sentences:
                    found.setdefault((sentence, weight, half, window), []).append(layer)
    # whole sentences first: a share of another one mixes with them
    order = sorted(found.items(), key=lambda item: item[0][1] != 1)
    return BlockPrompt(base, tuple(Variant(key[0], tuple(layers), *key[1:]) for key, layers in order))  # pyright: ignore[reportArgumentType]


def check(text: str) -> None:
    """What can be checked before a model is known: brackets and the form of their blocks; SpecError as above."""
    if len(text) > LONGEST:
        problem = f"The prompt has {len(text)} characters; the limit is {LONGEST}."
        raise SpecError(problem, text, 0, 20, HINT)
    plain = folded(text)
    for start, end in _spans(text):
        for first, last in _alternatives(text, plain, start + 3, end - 3):
            try:
                spec_check.check(text[first : _colon(text, plain, first, last)])
            except SpecError as error:
                raise error.within(text, first) from None


def _steps(
    text: str, brackets: Sequence[_Bracket], base: str, layer: SubBlock, half: str, window: Window | None
) -> list[tuple[str, float]]:
    """The sentences, with weights, that turn the base sentence into what a half of a layer gets.

    A bracket with a weight is mixed in after those without: it weakens its own words only.
    """
    chosen = [bracket.at(layer, half, window) for bracket in brackets]
    shares = {setting.weight for setting, _ in chosen if setting.weight != 1}
    if len(shares) > 1:
        problem = "Two brackets ask for different weights in the same block."
        raise SpecError(problem, text, brackets[-1].start, brackets[-1].end, HINT)
    whole = [
        words if setting.weight == 1 else bracket.base
        for bracket, (setting, words) in zip(brackets, chosen, strict=True)
    ]
    first = _sentence(text, brackets, whole)
    steps = [(first, 1.0)] if first != base else []
    for share in shares:
        mixed = _sentence(text, brackets, [words for _, words in chosen])
        if mixed != first and share != 0:
            steps.append((mixed, share))
    return steps


def _spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every bracket."""
    plain, spans, place = folded(text), [], 0
    while opening := OPEN.search(plain, place):
        _no_near_miss(text, plain, place, opening.start())
        closing = CLOSE.search(plain, opening.end())
        inner = OPEN.search(plain, opening.end())
        if closing is None:
            raise SpecError(
                "This bracket is never closed by :~).", text, opening.start(), opening.end(), HINT
            )
        if inner is not None and inner.start() < closing.start():
            raise SpecError("Brackets do not nest.", text, inner.start(), inner.end(), HINT)
        _no_near_miss(text, plain, opening.end(), closing.start())
        spans.append((opening.start(), closing.end()))
        place = closing.end()
    stray = CLOSE.search(plain, place)
    _no_near_miss(text, plain, place, stray.start() if stray else len(plain))
    if stray:
        raise SpecError("This closes no bracket.", text, stray.start(), stray.end(), HINT)
    return spans


def _no_near_miss(text: str, plain: str, start: int, end: int) -> None:
    """SpecError where ``text[start:end]`` holds what looks like a bracket and is not one."""
    part = plain[start:end]
    for opening in NEARLY_OPEN.finditer(part):
        inside = part[opening.end() : opening.end() + NEAR].split(")", 1)[0]
        if opening.group(1) or opening.group(3) or (opening.group(2) == "(" and _means_blocks(inside)):
            problem = "This looks like a block prompt, which opens with (~: and closes with :~)."
            raise SpecError(
                problem, text, start + opening.start(), start + opening.end(), f"{HINT} {PLAIN_HINT}"
            )
    if closing := NEARLY_CLOSED.search(part):
        problem = "This looks like the end of a block prompt, which is written :~)."
        raise SpecError(problem, text, start + closing.start(), start + closing.end(), HINT)


def _means_blocks(inside: str) -> bool:
    """Whether what follows ``(~`` names blocks: a colon that is not a weight's, or a block's name at its start."""
    rest = RATIO.sub("", WEIGHT.sub("", inside))
    return ":" in rest or BLOCK_FIRST.match(inside) is not None


def _bracket(text: str, start: int, end: int, blocks: ModelBlocks) -> _Bracket:
    plain, base = folded(text), ""
    # Settings of a layer, each with its alternative's number as a key, so that a later one can cut it.
    named: dict[SubBlock, tuple[Choice, ...]] = {}
    rest: dict[SubBlock, tuple[Choice, ...]] = {}
    for first, last in _alternatives(text, plain, start + 3, end - 3):
        colon = _colon(text, plain, first, last)
        words = text[colon + 1 : last].strip().replace("\\;", ";")
        try:
            spec = parse(text[first:colon], blocks)
        except SpecError as error:
            raise error.within(text, first) from None
        if plain[first:colon].strip() == "_":
            base = words
            continue
        for layer, settings in spec.settings.items():
            goal = rest if layer in spec.rest else named
            try:
                for setting in settings:
                    goal[layer] = _later_choice(goal.get(layer, ()), setting, words)
            except Fault as fault:
                raise SpecError(fault.problem, text, first, colon, HINT) from None
    return _Bracket(start, end, base, {**rest, **named})


def _later_choice(choices: tuple[Choice, ...], setting: Setting, words: str) -> tuple[Choice, ...]:
    """``choices`` cut by a later one, and that one."""
    kept = [(left, old) for one, old in choices for left in later_wins((one,), setting)[:-1]]
    return (*kept, (setting, words))


def _alternatives(text: str, plain: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans between the semicolons that are in no parentheses."""
    spans, first, opened = [], start, list[int]()
    for place in range(start, end + 1):
        character = plain[place] if place < end else ";"
        if place < end and text[place - 1] == "\\":
            continue
        if character == "(" and text[place] == "(":
            opened.append(place)
        elif character == ")" and text[place] == ")" and opened:
            opened.pop()
        elif character == ";" and (not opened or place == end):
            if text[first:place].strip():
                spans.append((first, place))
            first = place + 1
    if opened:
        problem = r"This parenthesis is not closed inside the block prompt; write \( for a plain one."
        raise SpecError(problem, text, opened[0], opened[0] + 1, HINT)
    if not spans:
        raise SpecError("This bracket is empty.", text, start - 3, end + 3, HINT)
    return spans


def _colon(text: str, plain: str, start: int, end: int) -> int:
    """The colon that ends the block spec: not one inside a name such as ``input:7`` or in parentheses."""
    depth = 0
    for place in range(start, end):
        depth += (plain[place] == "(") - (plain[place] == ")")
        if (
            plain[place] == ":"
            and depth <= 0
            and not NAME_BEFORE_COLON.search(plain[max(start, place - 40) : place])
        ):
            return place
    shift = len(text[start:end]) - len(text[start:end].lstrip())
    raise SpecError("No colon between the blocks and the text.", text, start + shift, end, HINT)


def _segments(brackets: Sequence[_Bracket], layer: SubBlock, text: str) -> Sequence[Window | None]:
    """The stretches of the sampling over which a layer's choices stay the same; None is all of it."""
    choices = [setting for bracket in brackets for setting, _ in bracket.choices.get(layer, ())]
    windows = [setting.window for setting in choices if setting.window is not None]
    if not windows:
        return [None]
    unit = windows[0].unit
    if any(window.unit != unit for window in windows):
        problem = "One block is timed in steps and in shares of the sampling; use one of the two."
        raise SpecError(problem, text, brackets[-1].start, brackets[-1].end, HINT)
    last = 1.0 if unit == "percent" else 10000.0
    edges = sorted({0.0, last, *(w.start for w in windows), *(w.end for w in windows)})
    return [Window(start, end, unit) for start, end in pairwise(edges)]


def _sentence(text: str, brackets: Sequence[_Bracket], words: Sequence[str]) -> str:
    """The prompt with ``words`` in the brackets' places."""
    parts, place = [], 0
    for bracket, word in zip(brackets, words, strict=True):
        parts += [text[place : bracket.start], word]
        place = bracket.end
    return "".join([*parts, text[place:]])
