"""Block prompts in a sentence: ``a (~: IN00-OUT11: cute; M00: excellent :~) girl``.

A bracket ``(~: ... :~)`` lists, separated by ``;``, what stands at its place in which blocks: a block spec, a
colon, a text. Where several name a block the later one wins; ``_`` names the blocks no other one does; blocks
that none names have nothing there. The texts may carry ComfyUI's own weights, ``(word:1.3)``, and a bracket may
stand inside such a weight. The spec's weights, windows and parts say how strongly, when and to which half
of attention the sentence with that text is given. The grammar is that of dumpunet's (hnmr293), extended.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from ..blocks.spec import Part, Setting, Spec, SpecError, Window, parse
from ..blocks.walk import SubBlock, UNetBlocks

OPEN, CLOSE = re.compile(r"(?<!\\)\(~:"), re.compile(r":~\)")
HINT = "Block prompts are written (~: blocks: text; blocks: text :~), with _ for all other blocks."
NAME_BEFORE_COLON = re.compile(r"\b(?:input|output|middle|idx)(?:_blocks?)?\s*$", re.IGNORECASE)
PLAIN = Setting()


@dataclass(frozen=True)
class Variant:
    """A sentence that some layers get instead of the base one."""

    text: str
    layers: tuple[SubBlock, ...]
    weight: float = 1.0
    part: Part = "kv"
    window: Window | None = None

    @property
    def spec(self) -> Spec:
        """The layers with their weight and part, as a read block spec."""
        setting = (Setting(self.weight, self.part),)
        return Spec(self.text, MappingProxyType(dict.fromkeys(self.layers, setting)))


@dataclass(frozen=True)
class BlockPrompt:
    """A read prompt: the sentence of the layers that nothing else is said of, and the others."""

    base: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class _Bracket:
    """One bracket: ``base`` is its text where nothing else is chosen."""

    start: int
    end: int
    base: str
    choices: dict[SubBlock, list[tuple[Setting, str]]]


def read(text: str, blocks: UNetBlocks) -> BlockPrompt:
    """Read a prompt for a walked model; SpecError points at what cannot be read."""
    brackets = [_bracket(text, start, end, blocks) for start, end in _spans(text)]
    base = _sentence(text, brackets, [bracket.base for bracket in brackets])
    found: dict[tuple[str, float, Part, Window | None], list[SubBlock]] = {}
    for sub_block in blocks.sub_blocks:
        for window in _segments([bracket.choices.get(sub_block, []) for bracket in brackets]):
            chosen = [_chosen(bracket, sub_block, window) for bracket in brackets]
            sentence = _sentence(text, brackets, [words for _, words in chosen])
            setting = _one_setting([setting for setting, _ in chosen], text, brackets)
            if sentence != base and setting.weight != 0:
                found.setdefault((sentence, setting.weight, setting.part, window), []).append(sub_block)
    variants = (Variant(key[0], tuple(layers), *key[1:]) for key, layers in found.items())
    return BlockPrompt(base, tuple(variants))


def _spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every bracket."""
    spans, place = [], 0
    while opening := OPEN.search(text, place):
        closing = CLOSE.search(text, opening.end())
        inner = OPEN.search(text, opening.end())
        if closing is None:
            raise SpecError("This bracket is never closed.", text, opening.start(), opening.end(), HINT)
        if inner is not None and inner.start() < closing.start():
            raise SpecError("Brackets do not nest.", text, inner.start(), inner.end(), HINT)
        spans.append((opening.start(), closing.end()))
        place = closing.end()
    if stray := CLOSE.search(text, place):
        raise SpecError("This closes no bracket.", text, stray.start(), stray.end(), HINT)
    return spans


def _bracket(text: str, start: int, end: int, blocks: UNetBlocks) -> _Bracket:
    base = ""
    choices: dict[SubBlock, list[tuple[Setting, str]]] = {}
    otherwise: list[tuple[Setting, str, Sequence[SubBlock]]] = []
    for first, last in _alternatives(text, start + 3, end - 3):
        colon = _colon(text, first, last)
        words = text[colon + 1 : last].strip().replace("\\;", ";")
        try:
            settings = parse(text[first:colon], blocks).settings
        except SpecError as error:
            raise error.within(text, first) from None
        if text[first:colon].strip().startswith("_"):
            setting = next(iter(settings.values()))[0]
            if setting == PLAIN:
                base = words
            else:
                otherwise.append((setting, words, tuple(settings)))
            continue
        for sub_block, own in settings.items():
            choices.setdefault(sub_block, []).extend((setting, words) for setting in own)
    named = set(choices)
    for setting, words, layers in otherwise:
        for sub_block in layers:
            if sub_block not in named:
                choices.setdefault(sub_block, []).append((setting, words))
    return _Bracket(start, end, base, choices)


def _alternatives(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans between the semicolons that stand in no parentheses."""
    spans, depth, first = [], 0, start
    for place in range(start, end + 1):
        character = text[place] if place < end else ";"
        escaped = text[place - 1] == "\\"
        depth += (character == "(") - (character == ")") if not escaped else 0
        if character == ";" and not (escaped and place < end) and (depth <= 0 or place == end):
            if text[first:place].strip():
                spans.append((first, place))
            first = place + 1
    if not spans:
        raise SpecError("This bracket is empty.", text, start - 3, end + 3, HINT)
    return spans


def _colon(text: str, start: int, end: int) -> int:
    """The colon that ends the block spec: not one inside a name such as ``input:7`` or in parentheses."""
    depth = 0
    for place in range(start, end):
        depth += (text[place] == "(") - (text[place] == ")")
        if text[place] == ":" and depth <= 0 and not NAME_BEFORE_COLON.search(text[start:place]):
            return place
    shift = len(text[start:end]) - len(text[start:end].lstrip())
    raise SpecError("No colon between the blocks and the text.", text, start + shift, end, HINT)


def _segments(choices: Sequence[Sequence[tuple[Setting, str]]]) -> Sequence[Window | None]:
    """The stretches of the sampling over which a layer's choices stay the same; None is all of it."""
    windows = [setting.window for own in choices for setting, _ in own if setting.window is not None]
    if not windows:
        return [None]
    unit = windows[0].unit
    if any(window.unit != unit for window in windows):
        raise ValueError("a block prompt times one block in steps and in shares of the sampling; choose one.")
    last = 1.0 if unit == "percent" else float("inf")
    edges = sorted({0.0, last, *(w.start for w in windows), *(w.end for w in windows)})
    return [Window(start, end, unit) for start, end in pairwise(edges)]


def _chosen(bracket: _Bracket, sub_block: SubBlock, window: Window | None) -> tuple[Setting, str]:
    """What stands in the bracket for a layer over a stretch: the last choice that covers it."""
    for setting, words in reversed(bracket.choices.get(sub_block, [])):
        if setting.window is None or window is None or setting.window.meets(window):
            return setting, words
    return PLAIN, bracket.base


def _one_setting(settings: Sequence[Setting], text: str, brackets: Sequence[_Bracket]) -> Setting:
    """The weight and part of a sentence that several brackets make; they must not ask for different ones."""
    asked = [one for one in settings if (one.weight, one.part) != (PLAIN.weight, PLAIN.part)] or [PLAIN]
    if any((one.weight, one.part) != (asked[0].weight, asked[0].part) for one in asked):
        problem = "Two brackets ask for different weights or parts in the same block."
        raise SpecError(problem, text, brackets[-1].start, brackets[-1].end, HINT)
    return Setting(asked[0].weight, asked[0].part)


def _sentence(text: str, brackets: Sequence[_Bracket], words: Sequence[str]) -> str:
    """The prompt with ``words`` in the brackets' places."""
    parts, place = [], 0
    for bracket, word in zip(brackets, words, strict=True):
        parts += [text[place : bracket.start], word]
        place = bracket.end
    return "".join([*parts, text[place:]])
