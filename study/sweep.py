"""A block sweep as data: its cells, in the order in which they are sampled.

One cell is one block at one ratio; the first cell is the unmodified model. A ratio is what the block is multiplied
by, or ``off`` to bypass the block, or, with a second model, the share of B in it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..blocks.names import BlockError, Layout, as_layout
from ..blocks.numbers import LONGEST, number, number_text, whole
from ..blocks.weights import OFF, block_names

Ratio = float | str  # a number, or OFF

MAX_SEED = 0xFFFFFFFFFFFFFFFF
MAX_IMAGES = 5000  # a limit against mistyped ranges of seeds


@dataclass(frozen=True)
class Cell:
    """One block at one ratio; ``block`` is None for the unmodified model."""

    block: str | None = None
    ratio: Ratio = 1.0

    @property
    def name(self) -> str:
        """``IN04_0.75``, for ids and file names."""
        return f"{self.block}_{_text(self.ratio)}" if self.block else "unmodified"

    @property
    def label(self) -> str:
        """``IN04 = 0.75``, for labels; the merge nodes read it as block weights."""
        return f"{self.block} = {_text(self.ratio)}" if self.block else "unmodified"


@dataclass(frozen=True)
class Sweep:
    """Which blocks at which ratios with which seeds: ``Sweep(SD1, SD1.blocks, (0.75,), (1, 2, 3, 4))``."""

    layout: Layout
    blocks: tuple[str, ...]
    ratios: tuple[Ratio, ...]
    seeds: tuple[int, ...]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The unmodified model, then every block at every ratio."""
        return (Cell(), *(Cell(block, ratio) for block in self.blocks for ratio in self.ratios))

    def texts(self) -> dict[str, str]:
        """The sweep as the widgets of a node; ``parse_sweep`` reads them back equal."""
        return {
            "layout": self.layout.name,
            "blocks": ", ".join(self.blocks),
            "ratios": ", ".join(map(_text, self.ratios)),
            "seeds": ", ".join(map(str, self.seeds)),
        }

    def title(self, two_models: bool, lora: str = "", mode: str = "scale") -> str:
        """One line that says how the blocks were changed, of models or of a LoRA."""
        many = len(self.blocks) > 1
        ratios = ", ".join(map(_text, self.ratios))
        what = "each block" if many else self.blocks[0]
        done = f"{ratios} of B" if two_models else f"x {ratios}"
        if lora:
            done = f"of {lora} {done if mode == 'scale' else mode}"
        return f"{what} {done}, seeds {', '.join(map(str, self.seeds))}"


def parse_sweep(layout: "str | Layout", blocks: str, ratios: str, seeds: str) -> Sweep:
    """Read a sweep: blocks ``ALL`` or ``IN00-IN03, M00``, ratios ``0.5, 0.75``, seeds ``1-4, 7``.

    BlockError quotes a text that is not a block, number or seed, a duplicate, or a sweep of more than MAX_IMAGES images.
    """
    shape = as_layout(layout)
    names = [name for item in _items(blocks, "blocks") for name in block_names(item, shape)]
    strange = [name for name in names if name not in shape.blocks]
    if strange:
        raise BlockError(
            f"{strange[0]} is not a numbered block. A sweep takes blocks from {shape.blocks[0]} to {shape.blocks[-1]}."
        )
    numbers, chosen = read_ratios(ratios), read_seeds(seeds)
    _once("blocks", names)
    sweep = Sweep(shape, tuple(names), tuple(numbers), tuple(chosen))
    if len(sweep.cells) * len(chosen) > MAX_IMAGES:
        raise BlockError(
            f"{len(sweep.cells)} cells x {len(chosen)} seeds are more than {MAX_IMAGES} images. Use fewer seeds, blocks or ratios."
        )
    return sweep


def read_ratios(text: str) -> list[Ratio]:
    """The ratios of a sweep; BlockError quotes what is not a number or is given twice."""
    return _once("ratios", [_ratio(item) for item in _items(text, "ratios")])


def read_seeds(text: str) -> list[int]:
    """The seeds of a sweep, with ranges written out; BlockError as above, and for more than MAX_IMAGES."""
    chosen: list[int] = []
    for item in _items(text, "seeds"):
        chosen += _seed_range(item)
        if len(chosen) > MAX_IMAGES:
            raise BlockError(f"The sweep has more than {MAX_IMAGES} seeds. Use fewer.")
    return _once("seeds", chosen)


def check_blocks(text: str) -> None:
    """BlockError where no model has the blocks that a text lists: none, or one twice. Their names are left to the run."""
    _once("blocks", _items(text, "blocks"))


def check_share(text: str) -> None:
    """BlockError unless share_a is empty or a number."""
    try:
        if text.strip():
            number(text)
    except ValueError as error:
        raise BlockError(f"{error} Write share_a as one number such as 0.5, or leave it empty.") from None


def _once(what: str, values: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise BlockError(f"{value} is given twice in the {what} of the sweep. Remove one of them.")
        seen.add(value)
    return values


def _items(text: str, what: str) -> list[str]:
    items = [item.strip() for item in text.replace("\n", ",").split(",") if item.strip()]
    if not items:
        raise BlockError(f"No {what} are given for the sweep.")
    return items


def _text(ratio: Ratio) -> str:
    return ratio if isinstance(ratio, str) else number_text(ratio)


def _ratio(item: str) -> Ratio:
    if item.lower() == OFF:
        return OFF
    try:
        return number(item)
    except ValueError as error:
        raise BlockError(
            f"{error} Write the ratios of the sweep as 0.5, 0.75, or off to bypass blocks."
        ) from None


def _seed_range(item: str) -> range:
    first, dash, last = item.partition("-")
    try:
        low = whole(first)
        high = whole(last) if dash else low
    except ValueError:
        raise BlockError(
            f"{item[:LONGEST]!r} is not a seed or a range of seeds. Write the seeds as 1, 2, 3 or 1-4."
        ) from None
    if low > high or high > MAX_SEED:
        raise BlockError(
            f"{item!r} is not a valid range of seeds. Seeds run from 0 to {MAX_SEED}, low to high."
        )
    if high - low >= MAX_IMAGES:
        raise BlockError(f"{item!r} are more than {MAX_IMAGES} seeds. Use fewer.")
    return range(low, high + 1)
