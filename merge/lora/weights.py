"""Block weights of a LoRA as text: all forms of ``blocks.weights``, and the lists of LoRA Block Weight (LBW).

=======  ==================================================  =========================
numbers  blocks in order                                     for
=======  ==================================================  =========================
17       BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT11  SD1, LoRA
26       BASE IN00-IN11 M00 OUT00-OUT11                      SD1, LyCORIS
27       BASE IN01-IN11 M00 (three values) OUT00-OUT11       SD1, LyCORIS (Inspire)
12       BASE IN04 IN05 IN07 IN08 M00 OUT00-OUT05            SDXL, LoRA
20       BASE IN00-IN08 M00 OUT00-OUT08                      SDXL, LyCORIS
21       BASE IN01-IN08 M00 (three values) OUT00-OUT08       SDXL, LyCORIS (Inspire)
61, 58   CLIP T5 IN D S OUT; BASE D S                        Flux
=======  ==================================================  =========================

BASE is the text encoder and what is in no block. In a list a block without a number has weight 0; in names, ranges and
presets a block that is not named has weight 1. ``R`` is a random number in 0..1, ``U`` in -1.5..1.5 (three decimals,
seeded); ``A`` and ``B`` are two numbers of the caller, ``a`` and ``b`` their halves. ``NAME:1,0,...`` is a list with a
label. What follows a list or preset changes it, later items take precedence: ``MIDD, IN04=0.5, OUT03=R``. Source:
hako-mikan, sd-webui-lora-block-weight; ltdrdata, ComfyUI-Inspire-Pack.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...blocks import weight_check, weights
from ...blocks.names import BASE, CLIP, MIDDLE, BlockError, Layout
from ...blocks.numbers import is_number, number

_SD1 = (BASE, "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", MIDDLE, *(f"OUT{i:02}" for i in range(3, 12)))
_SDXL = (BASE, "IN04", "IN05", "IN07", "IN08", MIDDLE, *(f"OUT{i:02}" for i in range(6)))
_MIDDLES = tuple(f"{MIDDLE}.{i}" for i in range(3))
_SD1_LYCORIS = (BASE, *(f"IN{i:02}" for i in range(1, 12)), *_MIDDLES, *(f"OUT{i:02}" for i in range(12)))
_SDXL_LYCORIS = (BASE, *(f"IN{i:02}" for i in range(1, 9)), *_MIDDLES, *(f"OUT{i:02}" for i in range(9)))
LISTS = {"sd1": {17: _SD1, 27: _SD1_LYCORIS}, "sdxl": {12: _SDXL, 21: _SDXL_LYCORIS}}

LETTERS = "RUABab"


def _runs(*pairs: tuple[str, int]) -> str:
    return ",".join(value for value, count in pairs for _ in range(count))


PRESETS = {
    "NONE": _runs(("0", 17)),
    "ALL": _runs(("1", 17)),
    "INS": _runs(("1", 4), ("0", 13)),
    "IND": _runs(("1", 1), ("0", 3), ("1", 3), ("0", 10)),
    "INALL": _runs(("1", 7), ("0", 10)),
    "MIDD": _runs(("1", 1), ("0", 3), ("1", 8), ("0", 5)),
    "MIDD0.2": "1,0,0,0,0,0,0.2,0.4,0.4,0.2,0,0,0,0,0,0,0",
    "MIDD0.8": "1,0,0,0,0,0.5,0.8,0.8,0.4,0,0,0,0,0,0,0,0",
    "MOUT": "1,0,0,0,0,0,1,1,1,1,1,1,1,1,0.5,0,0",
    "OUTD": _runs(("1", 1), ("0", 7), ("1", 4), ("0", 5)),
    "OUTS": _runs(("1", 1), ("0", 11), ("1", 5)),
    "OUTALL": _runs(("1", 1), ("0", 7), ("1", 9)),
    "ROUT": _runs(("1", 8), ("R", 9)),
    "AOUT": _runs(("A", 1), ("1", 11), ("A", 5)),
    "AB": _runs(("A", 1), ("B", 11), ("A", 5)),
    "ALL0.5": _runs(("0.5", 17)),
    "SD-LyC-INALL": _runs(("1", 12), ("0", 15)),
    "SD-LyC-MIDALL": _runs(("1", 1), ("0", 11), ("1", 3), ("0", 12)),
    "SD-LyC-OUTALL": _runs(("1", 1), ("0", 14), ("1", 12)),
    "SDXL-INALL": _runs(("1", 5), ("0", 7)),
    "SDXL-MIDALL": _runs(("1", 1), ("0", 4), ("1", 1), ("0", 6)),
    "SDXL-OUTALL": _runs(("1", 1), ("0", 5), ("1", 6)),
    "SDXL-LyC-INALL": _runs(("1", 9), ("0", 12)),
    "SDXL-LyC-MIDALL": _runs(("1", 1), ("0", 8), ("1", 3), ("0", 9)),
    "SDXL-LyC-OUTALL": _runs(("1", 1), ("0", 11), ("1", 9)),
    "FLUXALL": _runs(("1", 61)),
}
_SDXL_OF = {
    "INALL": "SDXL-INALL",
    "OUTALL": "SDXL-OUTALL",
}  # LBW presets have 17 numbers; these have SDXL twins


@dataclass(frozen=True)
class LoraWeights:
    """The weight of a LoRA per block; ``unlisted`` is that of a numbered block without a number.

    ``text`` is that of the text encoders and of what is in no block; ``note`` says how a list was read.
    """

    blocks: Mapping[str, float]
    unlisted: float
    text: float = 1.0
    note: str = ""

    def of(self, block: str | None, key: str = "") -> float:
        """The weight of ``block`` (None: in no block); ``key`` decides between the three parts of the middle block."""
        if block is None:
            return self.text
        if block == MIDDLE and MIDDLE not in self.blocks:
            part = key.partition("middle_block.")[2].partition(".")[0]
            return self.blocks.get(f"{MIDDLE}.{part}", self.unlisted)
        return self.blocks.get(block, self.unlisted)


def read(
    text: str,
    layout: Layout,
    *,
    seed: int = 0,
    a: float = 1.0,
    b: float = 0.0,
    own_presets: Mapping[str, Sequence[float]] | None = None,
) -> LoraWeights:
    """Read any form of the table above for a layout; BlockError quotes the text and says what is expected."""
    if len(text) > weights.LONGEST_TEXT:
        raise BlockError(
            f"The LoRA weights have {len(text)} characters. The limit is {weights.LONGEST_TEXT}."
        )
    body, own = text.strip() or "1", dict(own_presets or {})
    items = [item.strip() for item in _without_label(body).rstrip(",").split(",")]
    count = _head(items)
    presets = any(item not in own and preset(item, layout) for item in items[count:])
    letters = any(_is_letter(item) or _is_letter(_pair(item)[1]) for item in items)
    if not presets and not letters and count <= 1:
        return _parsed(body, layout, own)  # names, ranges, one number: no form of LoRA Block Weight
    draw = random.Random(seed)
    found = LoraWeights({}, 1.0)
    if count:
        found = _numbers(items[:count], layout, draw, a, b)
    for item in items[count:]:
        name, value = _pair(_not_a_value(item))
        if item not in own and (values := preset(item, layout)):
            found = _numbers(values.split(","), layout, draw, a, b)
        elif _is_letter(value):
            number_ = weights.number_text(_letter(value, draw, a, b))
            found = _over(found, weights.parse(f"{name}={number_}", layout, 1.0, own))
        else:
            found = _over(found, weights.parse(item, layout, 1.0, own))
    return found


def written_out(text: str, layout: Layout, own_presets: Mapping[str, Sequence[float]]) -> str:
    """The text for a recipe that is kept: presets of the user, which mean nothing elsewhere, as pairs."""
    items = [item.strip() for item in text.split(",")]
    if not set(items) & own_presets.keys():
        return text
    found = []
    for item in items:
        if item in own_presets:
            read_ = weights.parse(item, layout, 1.0, own_presets)
            pairs = {block: read_.of(block, 1.0) for block in layout.blocks if read_.is_named(block)}
            found += [
                f"{name}={weights.number_text(value)}" for name, value in (pairs | dict(read_.extra)).items()
            ]
        else:
            found.append(item)
    return ", ".join(found)


def _parsed(body: str, layout: Layout, own: Mapping[str, Sequence[float]]) -> LoraWeights:
    """A text without forms of LoRA Block Weight."""
    parsed = weights.parse(body, layout, default=1.0, own_presets=own)
    outside = dict(parsed.extra)
    blocks = {block: parsed.of(block, 1.0) for block in layout.blocks}
    rest = parsed.rest if parsed.rest is not None else 1.0
    base = outside.get(BASE, outside.get(CLIP, rest))
    return LoraWeights({**blocks, **outside}, 0.0 if parsed.named is None else base, base)


def check(text: str, own_presets: Collection[str] = ()) -> None:
    """What can be checked before a model is known: numbers, letters, presets; BlockError says what is wrong."""
    items = [item.strip() for item in _without_label(text.strip()).rstrip(",").split(",")]
    count = _head(items)
    for item in items[:count]:
        _letter(item, random.Random(0), 1.0, 0.0)
    rest = []
    for item in items[count:]:
        name, value = _pair(item)
        if item.removeprefix("SD-") not in PRESETS or item in own_presets:
            rest.append(f"{name}=1" if _is_letter(value) else _not_a_value(item))
    if text.strip() and rest:
        weight_check.check(", ".join(rest), own_presets)


def _over(found: LoraWeights, later: weights.BlockWeights) -> LoraWeights:
    """The weights with those that a later item of the text names."""
    named = {block: later.of(block, 1.0) for block in later.layout.blocks if later.is_named(block)}
    outside = dict(later.extra)
    base = outside.get(BASE, outside.get(CLIP, found.text))
    return LoraWeights({**found.blocks, **named, **outside}, found.unlisted, base, found.note)


def _pair(item: str) -> tuple[str, str]:
    """Name and value of ``name=value``; both empty for other items."""
    name, equals, value = (part.strip() for part in item.partition("="))
    return (name, value) if equals else ("", "")


def _head(items: Sequence[str]) -> int:
    """How many numbers and letters a text starts with."""
    return next((place for place, item in enumerate(items) if not _is_value(item)), len(items))


def _not_a_value(item: str) -> str:
    """The item, or a BlockError where it is a number or letter after other items."""
    if _is_value(item):
        raise BlockError(
            f"{item!r} in the LoRA weights is for no block. A list comes first. Write a block and its weight, as in IN04=0.5."
        )
    return item


def _is_value(item: str) -> bool:
    return is_number(item) or _is_letter(item)


def _is_letter(item: str) -> bool:
    return len(item) == 1 and item in LETTERS


def preset(item: str, layout: Layout) -> str:
    """The list of a preset of LoRA Block Weight; empty for other items."""
    name = item.removeprefix("SD-") if item.removeprefix("SD-") in PRESETS else item
    name = _SDXL_OF.get(name, name) if layout.name == "sdxl" else name
    return {"NONE": "0", "ALL": "1", "ALL0.5": "0.5"}.get(name) or PRESETS.get(name, "")


def _numbers(items: Sequence[str], layout: Layout, draw: random.Random, a: float, b: float) -> LoraWeights:
    """One number or letter for everything, or a list of them."""
    numbers = [_letter(item, draw, a, b) for item in items]
    if len(numbers) > 1:
        return _list(numbers, layout)
    return _parsed(weights.number_text(numbers[0]), layout, {})


def _list(numbers: list[float], layout: Layout) -> LoraWeights:
    """A list: LoRA Block Weight's order where it has one of this length, else that of ``blocks.weights``."""
    count = len(numbers)
    names = LISTS.get(layout.name, {}).get(count)
    if names is not None:
        found = dict(zip(names, numbers, strict=True))
        base = found.pop(BASE)
        order = " ".join(names)
        return LoraWeights(found, 0.0, base, f"{count} numbers, read as LoRA Block Weight does: {order}.")
    try:
        parsed = weights.from_numbers(numbers, layout)
    except BlockError as error:
        known = ", ".join(map(str, sorted(LISTS.get(layout.name, {})))) or "none"
        raise BlockError(
            f"{error} Lists of LoRA Block Weight for {layout.name} have these lengths: {known}."
        ) from None
    found = dict(zip(layout.blocks, parsed.values, strict=True)) | dict(parsed.extra)
    return LoraWeights(found, 0.0, found.get(BASE, found.get(CLIP, 1.0)))


def _letter(item: str, draw: random.Random, a: float, b: float) -> float:
    """A number, or the number that a letter stands for."""
    if item == "R":
        return round(draw.uniform(0.0, 1.0), 3)
    if item == "U":
        return round(draw.uniform(-1.5, 1.5), 3)
    values = {"A": a, "B": b, "a": a / 2, "b": b / 2}
    try:
        return values[item] if item in values else number(item)
    except ValueError as error:
        raise BlockError(f"{error} Write the LoRA weights as numbers, R, U, A or B.") from None


def _without_label(body: str) -> str:
    """The list after ``NAME:``; other texts as they are."""
    label, colon, rest = body.partition(":")
    if not colon or "=" in label or "," in label:
        return body
    first = rest.split(",", 1)[0].strip()
    return rest.strip() if _is_value(first) else body
