"""Block growth: one prompt taken over by another block by block, in an order, to see what each block adds."""

from collections.abc import Callable

from ..blocks.spec import parse
from ..blocks.spec_check import check
from ..blocks.walk import Block, ModelBlocks
from .entries import InjectionError
from .report import layer_names

CUSTOM = "custom"
NOTHING = "There is no block to grow by. Write one block spec per line into custom."


def _middle(blocks: ModelBlocks) -> float:
    """The place of the bottom of the U among the blocks with cross-attention."""
    down = sum(block.side == "input" for block in blocks.attending)
    return down if any(block.side == "middle" for block in blocks.attending) else down - 0.5


ORDERS: dict[str, Callable[[Block, ModelBlocks], tuple[float, ...]]] = {
    "from the middle outward": lambda block, blocks: (abs(_index(block) - _middle(blocks)), _index(block)),
    "from the ends inward": lambda block, blocks: (-abs(_index(block) - _middle(blocks)), _index(block)),
    "from coarse to fine": lambda block, blocks: (block.resolution, _index(block)),
    "from fine to coarse": lambda block, blocks: (-block.resolution, _index(block)),
    "along the U": lambda block, blocks: (_index(block),),
    "against the U": lambda block, blocks: (-_index(block),),
}


def _index(block: Block) -> int:
    return -1 if block.index is None else block.index


def check_texts(order: str, within: str, custom: str) -> None:
    """What can be checked before a model is known of the text that an order uses; errors as for ``growth``."""
    steps = _lines(custom) if order == CUSTOM else [within]
    for step in steps:
        check(step)
    if not steps:
        raise InjectionError(NOTHING)


def growth(order: str, within: str, custom: str, blocks: ModelBlocks) -> list[tuple[str, str]]:
    """``(label, block spec)`` of every stage: nothing, then one block more each time, up to all of ``within``.

    Order ``custom`` takes its steps from the lines of ``custom``, each a block spec. Raises SpecError, and
    InjectionError when there is nothing to grow.
    """
    if order == CUSTOM:
        steps = _lines(custom)
        for step in steps:
            parse(step, blocks)
    else:
        inside = parse(within, blocks).settings
        chosen = [block for block in blocks.attending if any(sub in inside for sub in block.sub_blocks)]
        chosen.sort(key=lambda block: ORDERS[order](block, blocks))
        steps = [layer_names([s for s in block.sub_blocks if s in inside], blocks) for block in chosen]
    if not steps:
        raise InjectionError(NOTHING)
    stages = [("none", "")]
    for count, step in enumerate(steps, 1):
        stages.append((f"+ {step}", ", ".join(steps[:count])))
    return stages


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
