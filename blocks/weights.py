"""Block weights as text: the MBW list, and the other forms in which the field writes one.

======================================  =====================================================
``1, 0.9166666667, ... , 1``            25 numbers for SD1, 19 for SDXL, in MBW order
``0, 1, 0.9166666667, ...``             one more: BASE first
``0, 1, ..., 0``                        two more: BASE first, VAE last
``0.5``                                 one number for every block
``GRAD_V``                              a preset
``MY_NAME: 1, 0.9, ...`` (or TAB)       a named list, as preset files have them
``GRAD_V, IN00=0.75, OUT03-OUT05=0.2``  names and ranges over a preset or over the default; later wins
======================================  =====================================================

Two ratios stand in one text as ``M_A | M_B``, each side in any of these forms.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import presets
from .keymap import CLIP, LABEL_EMB, OUT, TIME_EMBED
from .names import BASE, MIDDLE, VAE, BlockError, Layout, as_layout

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$")
_NAMED = re.compile(r"^\s*([^\d\s:,=+.-][^:,=\t]*?)\s*[:\t]\s*(?=\S)")
_MIDDLES = ("MID", MIDDLE, "M_00", "M0")
APART = (BASE, VAE, CLIP, TIME_EMBED, LABEL_EMB, OUT)
_BLOCK = re.compile(r"(IN|OUT)_?(\d{1,2})$")


@dataclass(frozen=True)
class BlockWeights:
    """One number per block of ``layout``, and per extra name (BASE, VAE, TIME_EMBED ...) that was given."""

    layout: Layout
    values: tuple[float, ...]
    extra: tuple[tuple[str, float], ...] = ()

    def of(self, block: str, otherwise: float) -> float:
        """The weight of ``block``; ``otherwise`` for an extra name that was not given."""
        if block in self.layout.blocks:
            return self.values[self.layout.blocks.index(block)]
        return dict(self.extra).get(block, otherwise)

    def checked(self) -> "BlockWeights":
        """These weights, or a BlockError that names the first one that is not a finite number."""
        for name, value in (*zip(self.layout.blocks, self.values, strict=True), *self.extra):
            if not math.isfinite(value):
                raise BlockError(f"the weight of {name} comes out as {value}; weights must be finite numbers")
        return self

    def text(self) -> str:
        """The list form, which ``parse`` reads back equal; extra names beyond BASE and VAE follow as name=value."""
        extra = dict(self.extra)
        numbers = list(self.values)
        if BASE in extra and VAE in extra:
            numbers = [extra.pop(BASE), *numbers, extra.pop(VAE)]
        elif BASE in extra:
            numbers = [extra.pop(BASE), *numbers]
        return ", ".join([*map(number_text, numbers), *(f"{k}={number_text(v)}" for k, v in extra.items())])


def number_text(value: float) -> str:
    """The shortest text that reads back as the same float: ``0.25``, ``1``."""
    text = repr(float(value))
    return text.removesuffix(".0")


def parse(
    text: str,
    layout: "str | Layout" = "sd1",
    default: float = 0.0,
    own_presets: Mapping[str, Sequence[float]] | None = None,
) -> BlockWeights:
    """Read any form of the table above for ``layout``; ``default`` is what blocks not named get.

    ``own_presets`` are looked up before the built-in ones. BlockError quotes the text and says what was
    expected: a wrong count, NaN or infinity, a block the layout lacks, an unknown preset.
    """
    shape = as_layout(layout)
    if (label := _NAMED.match(text)) and _is_block(label.group(1)):
        raise BlockError(
            f"{_quote(text)}: a block and its weight are written with =, as in {label.group(1)}=0.75"
        )
    items = _items(text)
    if not items:
        raise BlockError(f"no weights given; {_expected(shape)}")
    if any(item == "" for item in items):
        raise BlockError(f"two commas in a row in the weights {_quote(text)}; {_expected(shape)}")
    numbers: list[float] = []
    while items and _is_number(items[0]):
        numbers.append(_number(items.pop(0), text))
    if numbers:
        weights = from_numbers(numbers, shape)
    else:
        weights = BlockWeights(shape, (default,) * len(shape.blocks))
    for item in items:
        weights = _apply(weights, item, text, own_presets or {})
    return weights


def split_pair(text: str) -> tuple[str, str]:
    """The two sides of ``M_A | M_B``; BlockError when there are not exactly two, or one is empty."""
    sides = [side.strip() for side in text.split("|")]
    if len(sides) != 2 or not all(sides):
        raise BlockError(
            f"{_quote(text)} is not two lists; write M_A | M_B, as in 1, IN00=0.75 | GRAD_V, with the shares of A "
            "before the bar and those of B after it"
        )
    return sides[0], sides[1]


def named_presets(text: str) -> set[str]:
    """The preset names in a weights text, whether there are such presets or not."""
    return {item for item in _items(text) if item and "=" not in item and not _is_number(item)}


def from_numbers(numbers: Sequence[float], layout: "str | Layout") -> BlockWeights:
    """Weights from a list: one per block, or with BASE first, or BASE first and VAE last, or one for all."""
    shape = as_layout(layout)
    count = len(shape.blocks)
    values = tuple(float(number) for number in numbers)
    if len(values) == 1:
        return BlockWeights(shape, values * count)
    if len(values) == count:
        return BlockWeights(shape, values)
    if len(values) == count + 1:
        return BlockWeights(shape, values[1:], ((BASE, values[0]),))
    if len(values) == count + 2:
        return BlockWeights(shape, values[1:-1], ((BASE, values[0]), (VAE, values[-1])))
    raise BlockError(f"{len(values)} weights given; {_expected(shape)}")


def block_names(text: str, layout: Layout) -> list[str]:
    """The blocks meant by ``IN04``, ``IN_04``, ``MID``, ``OUT03-OUT05``, ``BASE``, ``ALL``; BlockError otherwise."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        if first.upper() == "ALL":
            return list(layout.blocks)
        return [_canonical(first, layout)]
    start, end = _canonical(first, layout), _canonical(last, layout)
    if start not in layout.blocks or end not in layout.blocks:
        raise BlockError(f"{text!r} is no range of blocks; ranges run between {', '.join(layout.blocks)}")
    low, high = layout.blocks.index(start), layout.blocks.index(end)
    if low > high:
        raise BlockError(f"the range {text!r} runs backwards; write {end}-{start}")
    return list(layout.blocks[low : high + 1])


def _items(text: str) -> list[str]:
    body = _NAMED.sub("", text, count=1).strip().rstrip(",")
    return [item.strip() for item in body.split(",")] if body else []


def _is_block(name: str) -> bool:
    """Whether a label is a block, a range of blocks or a name that stands apart, in any layout."""
    ends = name.upper().split("-")
    return all(_BLOCK.match(end.strip()) or end.strip() in (*APART, *_MIDDLES, "ALL") for end in ends)


def _apply(
    weights: BlockWeights, item: str, text: str, own_presets: Mapping[str, Sequence[float]]
) -> BlockWeights:
    """``weights`` changed by one ``name=value`` or preset."""
    name, equals, value = (part.strip() for part in item.partition("="))
    if not equals:
        values = own_presets[name] if name in own_presets else presets.preset(name, weights.layout)
        chosen = from_numbers(values, weights.layout)
        return BlockWeights(
            chosen.layout, chosen.values, tuple(sorted({**dict(weights.extra), **dict(chosen.extra)}.items()))
        )
    number = _number(value, text)
    values, extra = list(weights.values), dict(weights.extra)
    for block in block_names(name, weights.layout):
        if block in weights.layout.blocks:
            values[weights.layout.blocks.index(block)] = number
        else:
            extra[block] = number
    return BlockWeights(weights.layout, tuple(values), tuple(sorted(extra.items())))


def _canonical(name: str, layout: Layout) -> str:
    upper = name.upper()
    if upper in _MIDDLES:
        upper = MIDDLE
    elif match := _BLOCK.match(upper):
        upper = f"{match.group(1)}{int(match.group(2)):02}"
    if upper in layout.blocks or upper in APART:
        return upper
    raise BlockError(
        f"{name!r} is no block of {layout.name}; its blocks are {_spans(layout)}, and {', '.join(APART)} stand apart"
    )


def _is_number(item: str) -> bool:
    return bool(_NUMBER.match(item)) or item.lower().lstrip("+-") in ("nan", "inf", "infinity")


def _number(item: str, text: str) -> float:
    if not _is_number(item):
        raise BlockError(f"{item!r} in the weights {_quote(text)} is no number")
    value = float(item)
    if not math.isfinite(value):
        raise BlockError(f"{item!r} in the weights {_quote(text)}: weights must be finite numbers")
    return value


def _expected(layout: Layout) -> str:
    count = len(layout.blocks)
    return (
        f"expected {count} numbers for {layout.name} ({_spans(layout)}), {count + 1} with BASE first, "
        f"{count + 2} with BASE first and VAE last, one number for all, a preset name, or name=value pairs"
    )


def _spans(layout: Layout) -> str:
    middle = [MIDDLE] if layout.middle else []
    return ", ".join([f"IN00-IN{layout.inputs - 1:02}", *middle, f"OUT00-{layout.last_output}"])


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
