"""A search space as text: a weights text whose weights may be ranges.

======================================  =========================================================
``IN00-IN05 = 0..1``                    a number per block, free in the range
``OUT = one 0.2..0.8``                  one number for the whole group
``IN00-IN05 = 0..1 by 0.1``             in steps
``BASE = 0, 0.5, 1``                    one of these, per block; ``one 0, 1``: the same for the group
``M00 = 0.5``                           frozen
``D00-D18 = 1, off``                    off bypasses a block, where blocks of one model are scaled
``ALL = curve 0..1``                    five parameters: a plateau of a level, its centre and width, a slope at each side
``GRAD_V``  ``0.3``                     an item without = is a weights text below all other items
======================================  =========================================================

Items are separated by semicolons or line breaks; a later item wins. A name is as in weights texts (``blocks.blocknames``),
several are separated by commas; in a U-Net, IN, M and OUT are its stacks. What is not named stays A's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..blocks.blocknames import block_names
from ..blocks.names import BlockError, Layout, as_layout
from ..blocks.numbers import number, number_text
from ..blocks.weights import OFF, BlockWeights, parse
from .errors import SearchError

Value = float | str  # a number, or OFF

DIGITS = 4  # of a weight: finer steps change no image
FINEST = 10.0**-DIGITS
LARGEST = 1e6  # a weight beyond it is a slip
LONGEST = 10_000  # characters
MOST = 400  # parameters
STEEPEST = 8.0  # of a curve: the whole height over an eighth of the blocks
_CURVE = ("level", "centre", "width", "slope left", "slope right")


@dataclass(frozen=True)
class Parameter:
    """One free number: a range with or without steps, or one of ``choices``."""

    name: str
    low: float = 0.0
    high: float = 1.0
    step: float | None = None
    choices: tuple[Value, ...] = ()

    def rounded(self, value: Value) -> Value:
        """The value to four digits, still in the range."""
        if isinstance(value, str):
            return value
        return min(max(round(value, DIGITS), self.low), self.high) if not self.choices else value

    @property
    def count(self) -> float:
        """How many values it can have; infinity in a range without steps."""
        if self.choices:
            return len(self.choices)
        return math.inf if self.step is None else math.floor((self.high - self.low) / self.step + 1e-6) + 1


@dataclass(frozen=True)
class Rule:
    """What an item says about its blocks: one parameter each, one for all, five of a curve, or none (frozen)."""

    blocks: tuple[str, ...]
    kind: str  # each, one, curve, frozen
    parameters: tuple[Parameter, ...]
    value: Value = 0.0

    def of(self, block: str, values: Mapping[str, Value]) -> Value:
        """The weight of ``block`` where the parameters have these values."""
        if self.kind == "frozen":
            return self.value
        if self.kind in ("each", "one"):
            name = block if self.kind == "each" else self.parameters[0].name
            parameter = next(parameter for parameter in self.parameters if parameter.name == name)
            return parameter.rounded(values[name])
        level, centre, width, left, right = (float(values[parameter.name]) for parameter in self.parameters)
        place = self.blocks.index(block) / max(1, len(self.blocks) - 1)
        outside = centre - width / 2 - place, place - centre - width / 2
        fall = max(0.0, outside[0] * left, outside[1] * right)
        low = self.parameters[0].low
        return self.parameters[0].rounded(low + (level - low) * max(0.0, 1.0 - fall))


@dataclass(frozen=True)
class Space:
    """A parsed space; ``rules`` gives each named block its rule, ``base`` is the weights text below them."""

    layout: Layout
    text: str
    base: str
    rules: Mapping[str, Rule]

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The free parameters by name, in the order of the blocks."""
        found: dict[str, Parameter] = {}
        for block, rule in self.rules.items():
            for parameter in rule.parameters:
                if rule.kind != "each" or parameter.name == block:
                    found.setdefault(parameter.name, parameter)
        return found

    @property
    def size(self) -> float:
        """How many different weights the space holds at most; infinity where a range has no steps."""
        return math.prod(parameter.count for parameter in self.parameters.values())

    def blocks_of(self, name: str) -> tuple[str, ...]:
        """The blocks that a parameter sets."""
        return tuple(
            block
            for block, rule in self.rules.items()
            if (rule.kind == "each" and block == name)
            or (rule.kind != "each" and any(parameter.name == name for parameter in rule.parameters))
        )

    def weights(self, values: Mapping[str, Value]) -> BlockWeights:
        """The weights where the parameters have these values, rounded to four digits."""
        items = [self.base] if self.base else []
        items += [f"{block}={_text(rule.of(block, values))}" for block, rule in self.rules.items()]
        return parse(", ".join(items), self.layout, bypass=True)


def parse_space(
    text: str, layout: "str | Layout", own_presets: Mapping[str, list[float]] | None = None
) -> Space:
    """Read a space for ``layout``; SearchError quotes what is wrong and says what is expected."""
    shape = as_layout(layout)
    if len(text) > LONGEST:
        raise SearchError(
            f"The search space has {len(text)} characters; the limit is {LONGEST}. Use a shorter text."
        )
    items = [item.strip() for item in text.replace("\n", ";").split(";") if item.strip()]
    rules: dict[str, Rule] = {}
    base = ""
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            base = _base(item, shape, own_presets or {})
            continue
        rule = _rule(name, value, _blocks(name, item, shape), item)
        rules |= dict.fromkeys(rule.blocks, rule)
    order = {block: place for place, block in enumerate(shape.blocks)}
    rules = dict(sorted(rules.items(), key=lambda entry: order.get(entry[0], len(order))))
    space = Space(shape, "; ".join(items), base, rules)
    if not space.parameters:
        raise SearchError(
            "The search space has no free weight. Write at least one range, as in IN00-IN05 = 0..1."
        )
    if len(space.parameters) > MOST:
        raise SearchError(
            f"The search space has {len(space.parameters)} free weights; the limit is {MOST}. Group blocks with one."
        )
    space.weights({p.name: p.choices[0] if p.choices else p.low for p in space.parameters.values()})
    return space


def _base(item: str, layout: Layout, own_presets: Mapping[str, list[float]]) -> str:
    try:
        return parse(item, layout, own_presets=own_presets, bypass=True).text()
    except BlockError as error:
        raise SearchError(f"{error} An item with a range has an =, as in IN00-IN05 = 0..1.") from None


def _blocks(names: str, item: str, layout: Layout) -> tuple[str, ...]:
    found: dict[str, None] = {}
    stacks = {stack.letter: stack.blocks for stack in layout.stacks} if layout.is_unet else {}
    for name in names.split(","):
        try:
            blocks = stacks.get(name.strip().upper()) or block_names(name.strip(), layout)
        except BlockError as error:
            raise SearchError(f"{error} Given: {_quote(item)}.") from None
        found |= dict.fromkeys(blocks)
    order = {block: place for place, block in enumerate(layout.blocks)}
    return tuple(sorted(found, key=lambda block: order.get(block, len(order))))


def _rule(name: str, value: str, blocks: tuple[str, ...], item: str) -> Rule:
    words = value.split(maxsplit=1)
    kind = words[0].lower() if words and words[0].lower() in ("one", "curve") else "each"
    body = (words[1] if len(words) > 1 else "") if kind != "each" else value
    if not body:
        raise SearchError(f"{_quote(item)} has no weight after the =. {_EXPECTED}")
    if ".." in body:
        low, high, step = _range(body, item)
        if kind == "curve":
            if step is not None:
                raise SearchError(
                    f"{_quote(item)}: a curve has no steps. Write {name} = curve {number_text(low)}..{number_text(high)}."
                )
            return Rule(blocks, kind, _curve(name, low, high))
        names = blocks if kind == "each" else (name,)
        return Rule(blocks, kind, tuple(Parameter(n, low, high, step) for n in names))
    choices = tuple(_choice(part, item) for part in body.split(","))
    if kind == "curve":
        raise SearchError(f"{_quote(item)}: a curve needs a range, as in {name} = curve 0..1.")
    if len(set(choices)) < len(choices):
        raise SearchError(f"{_quote(item)} has the same weight twice. Write each once.")
    if len(choices) == 1:
        return Rule(blocks, "frozen", (), choices[0])
    names = blocks if kind == "each" else (name,)
    return Rule(blocks, kind, tuple(Parameter(n, choices=choices) for n in names))


_EXPECTED = "Expected: a number, a range such as 0..1 or one 0..1, choices such as 0, 0.5, 1, or curve 0..1."


def _curve(name: str, low: float, high: float) -> tuple[Parameter, ...]:
    ends = ((low, high), (0.0, 1.0), (0.0, 1.0), (0.0, STEEPEST), (0.0, STEEPEST))
    return tuple(Parameter(f"{name} {word}", *end) for word, end in zip(_CURVE, ends, strict=True))


def _range(body: str, item: str) -> tuple[float, float, float | None]:
    span, by, step_text = body.lower().partition(" by ")
    low_text, _, high_text = span.partition("..")
    try:
        low, high = number(low_text), number(high_text)
        step = number(step_text) if by else None
    except ValueError as error:
        raise SearchError(f"{error} Given: {_quote(item)}. {_EXPECTED}") from None
    if not low < high:
        raise SearchError(f"{_quote(item)}: the range must run from the lower to the higher number.")
    if max(-low, high) > LARGEST:
        raise SearchError(f"{_quote(item)}: a weight must be from -{LARGEST:.0f} to {LARGEST:.0f}.")
    if high - low < FINEST * (1 - 1e-6):
        raise SearchError(
            f"{_quote(item)}: the range must be at least {FINEST:.4f} long. Weights have {DIGITS} digits."
        )
    if step is not None and not FINEST * (1 - 1e-6) <= step <= high - low:
        raise SearchError(
            f"{_quote(item)}: the step must be at least {FINEST:.4f} and at most the length of the range."
        )
    return low, high, step


def _choice(part: str, item: str) -> Value:
    if part.strip().lower() == OFF:
        return OFF
    try:
        value = number(part)
    except ValueError as error:
        raise SearchError(f"{error} Given: {_quote(item)}. {_EXPECTED}") from None
    if abs(value) > LARGEST:
        raise SearchError(f"{_quote(item)}: a weight must be from -{LARGEST:.0f} to {LARGEST:.0f}.")
    return value


def _text(value: Value) -> str:
    return value if isinstance(value, str) else number_text(value + 0.0)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
