"""The block study: what a sweep samples, cell by cell, and what the pictures of its cells are compared for.

One cell is one block at one ratio; the first cell is the model as it is. A ratio is what the block is multiplied
by, or, with a second model, the share of B in it.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from ..blocks.names import BlockError, Layout, as_layout
from ..blocks.weights import block_names, number_text

MAX_SEED = 0xFFFFFFFFFFFFFFFF
MAX_PICTURES = 5000  # what a mistyped range of seeds must not queue

_SEEDS = re.compile(r"(\d+)(?:\s*-\s*(\d+))?$")


@dataclass(frozen=True)
class Cell:
    """One block at one ratio; no block is the model as it is."""

    block: str | None = None
    ratio: float = 1.0

    @property
    def name(self) -> str:
        """``IN04_0.75``: what ids and file names call the cell."""
        return f"{self.block}_{number_text(self.ratio)}" if self.block else "unmodified"

    @property
    def label(self) -> str:
        """``IN04 = 0.75``: what people read, and what the merge nodes take as block weights."""
        return f"{self.block} = {number_text(self.ratio)}" if self.block else "unmodified"


@dataclass(frozen=True)
class Sweep:
    """Which blocks at which ratios with which seeds: ``Sweep(SD1, SD1.blocks, (0.75,), (1, 2, 3, 4))``."""

    layout: Layout
    blocks: tuple[str, ...]
    ratios: tuple[float, ...]
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
            "ratios": ", ".join(map(number_text, self.ratios)),
            "seeds": ", ".join(map(str, self.seeds)),
        }

    def title(self, two_models: bool) -> str:
        """What was done to the blocks, in a line."""
        many = len(self.blocks) > 1
        ratios = ", ".join(map(number_text, self.ratios))
        what = "each block" if many else self.blocks[0]
        done = f"{ratios} of B" if two_models else f"x {ratios}"
        return f"{what} {done}, seeds {', '.join(map(str, self.seeds))}"


def parse_sweep(layout: "str | Layout", blocks: str, ratios: str, seeds: str) -> Sweep:
    """Read a sweep: blocks ``ALL`` or ``IN00-IN03, M00``, ratios ``0.5, 0.75``, seeds ``1-4, 7``.

    BlockError quotes what is no block, number or seed, stands twice, or would be more than MAX_PICTURES pictures.
    """
    shape = as_layout(layout)
    names = [name for item in _items(blocks, "blocks") for name in block_names(item, shape)]
    strange = [name for name in names if name not in shape.blocks]
    if strange:
        raise BlockError(
            f"{strange[0]} is no numbered block; a sweep goes over {shape.blocks[0]} to {shape.blocks[-1]}"
        )
    numbers = [_ratio(item) for item in _items(ratios, "ratios")]
    chosen = [seed for item in _items(seeds, "seeds") for seed in _seed_range(item)]
    for what, values in {"blocks": names, "ratios": numbers, "seeds": chosen}.items():
        for number, value in enumerate(values):
            if value in values[:number]:
                raise BlockError(f"{value} stands twice among the {what} of the sweep")
    sweep = Sweep(shape, tuple(names), tuple(numbers), tuple(chosen))
    if len(sweep.cells) * len(chosen) > MAX_PICTURES:
        raise BlockError(
            f"{len(sweep.cells)} cells x {len(chosen)} seeds are more than {MAX_PICTURES} pictures"
        )
    return sweep


def _items(text: str, what: str) -> list[str]:
    items = [item.strip() for item in text.replace("\n", ",").split(",") if item.strip()]
    if not items:
        raise BlockError(f"no {what} given for the sweep")
    return items


def _ratio(item: str) -> float:
    try:
        value = float(item)
    except ValueError:
        raise BlockError(f"{item!r} among the ratios is no number; write them as 0.5, 0.75") from None
    if value - value != 0:
        raise BlockError(f"{item!r} among the ratios: ratios must be finite numbers")
    return value


def _seed_range(item: str) -> range:
    match = _SEEDS.match(item)
    if match is None:
        raise BlockError(
            f"{item!r} among the seeds is no whole number or range; write them as 1, 2, 3 or 1-4"
        )
    first = int(match.group(1))
    last = int(match.group(2) or first)
    if first > last or last > MAX_SEED:
        raise BlockError(f"{item!r} is no range of seeds between 0 and {MAX_SEED}, from small to large")
    if last - first >= MAX_PICTURES:
        raise BlockError(f"{item!r} are more than {MAX_PICTURES} seeds")
    return range(first, last + 1)
