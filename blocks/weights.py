"""Block weights as text: the MBW list, and the other forms in which the community writes one.

======================================  =====================================================
``1, 0.9166666667, ... , 1``            one number per block, in the order of the layout
``0, 1, 0.9166666667, ...``             one more: BASE first
``0, 1, ..., 0``                        two more: BASE first, VAE last
``0, 0, 0, 1, ..., 1``                  61 numbers for Flux: CLIP, T5, IN, the blocks, OUT
``0.5``                                 one number for everything
``GRAD_V``                              a preset
``MY_NAME: 1, 0.9, ...`` (or TAB)       a named list, as preset files have them
``flux: D00-D07=0.3``                   the name of a layout: the model must have that layout
``GRAD_V, IN00=0.75, OUT03-OUT05=0.2``  names and ranges over a preset or over the default; later wins
``D05=off``                             bypass a block (``blocks.bypass``), where blocks of one model are scaled
======================================  =====================================================

Two ratios are written in one text as ``M_A | M_B``, each side in any of these forms. ``block_names`` lists the
ways to name a block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import presets
from .blocknames import block_names, is_block_label
from .names import BASE, CLIP, IN, LAYOUTS, OUT, T5, VAE, BlockError, Layout, as_layout
from .numbers import NUMBER, is_number, number, number_text

__all__ = ["NUMBER", "BlockWeights", "block_names", "from_numbers", "number_text", "parse", "split_pair"]

LONGEST_TEXT = 10_000  # characters
OFF = "off"
_FIXED = {**LAYOUTS, "sd2": LAYOUTS["sd1"]}


@dataclass(frozen=True)
class BlockWeights:
    """One number per block of ``layout``, and per extra name (BASE, VAE, IN ...) that was given.

    ``named`` are the blocks that the text gives a number (None: all). ``rest`` is the number of a text that is
    one number for everything. ``off`` are the blocks to bypass; their value is not used.
    """

    layout: Layout
    values: tuple[float, ...]
    extra: tuple[tuple[str, float], ...] = ()
    named: frozenset[str] | None = field(default=None, compare=False)
    rest: float | None = field(default=None, compare=False)
    off: frozenset[str] = frozenset()

    def of(self, block: str, otherwise: float) -> float:
        """The weight of ``block``. Names outside the blocks without a weight follow BASE; VAE does not.

        ``otherwise`` is the weight of a name that nothing gives one.
        """
        place = self.layout.index.get(block)
        if place is not None:
            return self.values[place]
        extra = dict(self.extra)
        if block in extra:
            return extra[block]
        if block == VAE:
            return otherwise
        if BASE in extra:
            return extra[BASE]
        return otherwise if self.rest is None else self.rest

    def is_named(self, block: str) -> bool:
        """Whether the text gives this block, or what it follows, a number: what it does not name stays A's."""
        if block in self.layout.index:
            return self.named is None or block in self.named
        extra = dict(self.extra)
        return block in extra or (block != VAE and (BASE in extra or self.rest is not None))

    def checked(self) -> "BlockWeights":
        """These weights, or a BlockError that names the first one that is not a finite number."""
        for name, value in (*zip(self.layout.blocks, self.values, strict=True), *self.extra):
            if not math.isfinite(value):
                raise BlockError(f"The weight of {name} becomes {value}. Weights must be finite numbers.")
        return self

    def text(self) -> str:
        """The weights as text, which ``parse`` reads back equal: a list, or pairs where not all blocks are named."""
        extra = dict(self.extra)
        numbers = dict(zip(self.layout.blocks, map(number_text, self.values), strict=True))
        items = [number_text(self.rest)] if self.rest is not None else []
        named = self.layout.index.keys() if self.named is None else self.named
        if self.rest is not None:
            named = [block for block, value in numbers.items() if value != items[0]]
        elif len(named) == len(numbers):
            items += numbers.values()
            if BASE in extra:
                items.insert(0, number_text(extra.pop(BASE)))
                if VAE in extra:
                    items.append(number_text(extra.pop(VAE)))
            named = ()
        items += [
            f"{block}={value}" for block, value in numbers.items() if block in named and block not in self.off
        ]
        items += [f"{block}={OFF}" for block in numbers if block in self.off]
        items += [f"{name}={number_text(value)}" for name, value in extra.items()]
        layout = self.layout
        label = f"{layout.name}: " if not named and self.rest is None and not layout.is_unet else ""
        return (label if layout.name in LAYOUTS else "") + ", ".join(items)


def parse(
    text: str,
    layout: "str | Layout" = "sd1",
    default: float = 0.0,
    own_presets: Mapping[str, Sequence[float]] | None = None,
    bypass: bool = False,
) -> BlockWeights:
    """Read any form of the table above for ``layout``; ``default`` is what blocks not named get.

    ``own_presets`` are looked up before the built-in ones. ``bypass`` says whether ``off`` is allowed. BlockError quotes the text and says what was
    expected: a wrong count, NaN or infinity, a block the layout lacks, an unknown preset, another layout.
    """
    shape = as_layout(layout)
    items = _items(text, shape)
    if not items:
        raise BlockError(f"No weights are given. {_expected(shape)}")
    if any(item == "" for item in items):
        raise BlockError(f"The weights {_quote(text)} have two commas in a row. {_expected(shape)}")
    start = next((i for i, item in enumerate(items) if not _looks_numeric(item)), len(items))
    if start:
        weights = from_numbers([_number(item, text) for item in items[:start]], shape)
    else:
        weights = BlockWeights(shape, (default,) * len(shape.blocks), named=frozenset())
    read = _applied(weights, items[start:], text, own_presets or {})
    if read.off and not bypass:
        raise BlockError(
            f"{_quote(text)}: {OFF} bypasses a block of one model. Use it in Scale Blocks, and a number here."
        )
    return read


def split_pair(text: str) -> tuple[str, str]:
    """The two sides of ``M_A | M_B``; BlockError when there are not exactly two, or one is empty."""
    sides = [side.strip() for side in text.split("|")]
    if len(sides) != 2 or not all(sides):
        raise BlockError(
            f"{_quote(text)} is not two lists of weights. Write M_A | M_B, as in 1, IN00=0.75 | GRAD_V: the weights of "
            "model A before the bar and those of model B after it."
        )
    return sides[0], sides[1]


def named_presets(text: str) -> set[str]:
    """The preset names in a weights text, whether there are such presets or not."""
    if len(text) > LONGEST_TEXT:
        return set()
    return {item for item in _split(_label(text)[1]) if item and "=" not in item and not _looks_numeric(item)}


def from_numbers(numbers: Sequence[float], layout: "str | Layout") -> BlockWeights:
    """Weights from a list: one per block, or with BASE first, or BASE first and VAE last, or one for all.

    For Flux also the 61 of supermerger and LBW: CLIP, T5, IN, the blocks of D and S, OUT.
    """
    shape = as_layout(layout)
    count = len(shape.blocks)
    values = tuple(float(number) for number in numbers)
    if len(values) == 1:
        return BlockWeights(shape, values * count, rest=values[0])
    if len(values) == count:
        return BlockWeights(shape, values)
    if len(values) == count + 1:
        return BlockWeights(shape, values[1:], ((BASE, values[0]),))
    if len(values) == count + 2:
        return BlockWeights(shape, values[1:-1], ((BASE, values[0]), (VAE, values[-1])))
    if (double := _flux_blocks(shape)) and len(values) in (len(double), len(double) + 1, len(double) + 4):
        return _from_flux(values, shape, double)
    raise BlockError(f"{len(values)} weights are given. {_expected(shape)}")


def _flux_blocks(layout: Layout) -> list[str]:
    """The blocks that a list of Flux names: D and S, where these are all, or as many as Flux has (Chroma)."""
    found = {stack.letter: stack.blocks for stack in layout.stacks}
    double, single = found.get("D", ()), found.get("S", ())
    fits = len(found) == 2 or (len(double), len(single)) == (19, 38)
    return [*double, *single] if double and single and fits else []


def _from_flux(values: tuple[float, ...], layout: Layout, double: list[str]) -> BlockWeights:
    """A list of Flux: 57 (D, S), 58 (BASE first) or 61; the layout may have more stacks, which it does not name."""
    extra: dict[str, float] = {}
    if len(values) == len(double) + 1:
        extra, values = {BASE: values[0]}, values[1:]
    elif len(values) == len(double) + 4:
        extra, values = {CLIP: values[0], T5: values[1], IN: values[2], OUT: values[-1]}, values[3:-1]
    by_name = dict(zip(double, values, strict=True))
    numbers = tuple(by_name.get(block, 0.0) for block in layout.blocks)
    return BlockWeights(layout, numbers, tuple(sorted(extra.items())), frozenset(by_name))


def _applied(
    weights: BlockWeights, items: Sequence[str], text: str, own_presets: Mapping[str, Sequence[float]]
) -> BlockWeights:
    """``weights`` changed by each ``name=value`` or preset in turn."""
    layout, rest = weights.layout, weights.rest
    values, extra = list(weights.values), dict(weights.extra)
    named = set(layout.blocks) if weights.named is None else set(weights.named)
    off: set[str] = set()
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        if equals and value.lower() == OFF:
            blocks = _block_names(name, layout, text)
            if outside := [block for block in blocks if block not in layout.index]:
                raise BlockError(f"{outside[0]} is not a block, so it cannot be bypassed. Use a number.")
            named.update(blocks)
            off.update(blocks)
            continue
        if equals:
            chosen = dict.fromkeys(_block_names(name, layout, text), _number(value, text))
        else:
            preset_names = presets.names(layout)
            if name not in own_presets and name not in preset_names and is_block_label(name, layout):
                raise BlockError(f"{_quote(text)}: write a block and its weight with =, as in {name}=0.75.")
            numbers = own_presets[name] if name in own_presets else presets.preset(name, layout)
            preset = from_numbers(numbers, layout)
            chosen = dict(zip(layout.blocks, preset.values, strict=True)) | dict(preset.extra)
            chosen = {block: share for block, share in chosen.items() if preset.is_named(block)}
            rest = preset.rest if preset.rest is not None else rest
        for block, share in chosen.items():
            if block in layout.index:
                values[layout.index[block]] = share
                named.add(block)
                off.discard(block)
            else:
                extra[block] = share
    return BlockWeights(
        layout, tuple(values), tuple(sorted(extra.items())), frozenset(named), rest, frozenset(off)
    )


def _block_names(name: str, layout: Layout, text: str) -> list[str]:
    try:
        return block_names(name, layout)
    except BlockError as error:
        raise BlockError(f"{error} Given: {_quote(text)}.") from None


def _items(text: str, layout: Layout) -> list[str]:
    """The items of a text without its label, which is checked."""
    if len(text) > LONGEST_TEXT:
        raise BlockError(
            f"The weights have {len(text)} characters; the limit is {LONGEST_TEXT}. Use a shorter text."
        )
    label, body = _label(text)
    if is_block_label(label, layout):
        raise BlockError(f"{_quote(text)}: write a block and its weight with =, as in {label}=0.75.")
    if label.lower() in _FIXED:
        wanted = _FIXED[label.lower()]
        if wanted.blocks != layout.blocks:
            raise BlockError(
                f"The weights are for {label} ({wanted.spans()}), but this model is {layout.describe()}. "
                "Use weights for this model, or remove the name of the layout."
            )
        body = _label(body)[1]
    return _split(body)


def _label(text: str) -> tuple[str, str]:
    """The label before a colon or TAB and what follows it; no label, and the whole text, where there is none."""
    end = min((place for place in map(text.find, ":\t") if place >= 0), default=-1)
    label = text[:end].strip() if end >= 0 else ""
    if (
        not label
        or label[0] in "0123456789:=+.-"
        or any(mark in label for mark in ",=")
        or not text[end + 1 :].strip()
    ):
        return "", text
    return label, text[end + 1 :]


def _split(body: str) -> list[str]:
    body = body.strip().rstrip(",")
    return [item.strip() for item in body.split(",")] if body else []


def _looks_numeric(item: str) -> bool:
    """A number, or what can only be meant as one: NaN, infinity, a long row of digits."""
    return is_number(item) or item.lower().lstrip("+-") in ("nan", "inf", "infinity")


def _number(item: str, text: str) -> float:
    if item.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise BlockError(
            f"{item!r} in the weights {_quote(text)} is not allowed. Weights must be finite numbers."
        )
    try:
        return number(item)
    except ValueError as error:
        raise BlockError(f"{error} Weights must be finite numbers. Given: {_quote(text)}.") from None


def _expected(layout: Layout) -> str:
    count = len(layout.blocks)
    if not count:
        return "This model has no blocks. Expected: one number for the whole model."
    double = len(_flux_blocks(layout))
    flux = f", {double + 4} with CLIP, T5, IN before D and S and OUT after them" if double else ""
    return (
        f"Expected for {layout.name}: {count} numbers ({layout.spans()}), {count + 1} with BASE first, "
        f"{count + 2} with BASE first and VAE last{flux}, one number for all, a preset name, or name=value pairs."
    )


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
