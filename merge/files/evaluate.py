"""Reading a tensor of a recipe's line: every line before it is computed once, however often it is used.

Lines use lines, so that a tensor depends on others as in a graph. The graph is walked with a list, not by recursion:
neither the number of lines nor the number of uses has a limit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .checkpoint import Checkpoint
from .ema import EmaSwapped


class Read(NamedTuple):
    """Elements [start, stop) of a tensor of a checkpoint."""

    source: Checkpoint
    key: str
    start: int = 0
    stop: int | None = None


class Computed:
    """A checkpoint whose tensors are computed from those of ``sources``."""

    sources: Sequence[Checkpoint] = ()

    def needs(self, key: str, start: int, stop: int | None) -> list[Read]:
        """What elements [start, stop) of a tensor are computed from."""
        raise NotImplementedError

    def compute(self, key: str, start: int, stop: int | None, given: Sequence[Tensor]) -> Tensor:
        """Elements [start, stop) of a tensor from what ``needs`` asked for."""
        raise NotImplementedError


def evaluate(want: Read) -> Tensor:
    """What ``want`` reads; nothing is computed twice, and what is not needed any more is let go."""
    graph = _graph(want)
    uses = Counter(need for needs in graph.values() for need in set(needs))
    done: dict[Read, Tensor] = {}
    for here, needs in graph.items():
        if isinstance(here.source, Computed):
            given = [done[need] for need in needs]
            done[here] = here.source.compute(here.key, here.start, here.stop, given)
        else:
            done[here] = here.source.read(here.key, here.start, here.stop)
        for need in set(needs):
            uses[need] -= 1
            if not uses[need]:
                del done[need]
    return done[want]


def _graph(want: Read) -> Mapping[Read, list[Read]]:
    """Every read that ``want`` depends on with those it needs, each after those."""
    order: dict[Read, list[Read]] = {}
    opened: dict[Read, list[Read]] = {}
    waiting = [want]
    while waiting:
        here = waiting[-1]
        if here not in opened:
            opened[here] = _needs(here)
        missing = [need for need in opened[here] if need not in order]
        if missing:
            waiting.extend(missing)
        else:
            order.setdefault(here, opened[here])
            waiting.pop()
    return order


def _needs(here: Read) -> list[Read]:
    if not isinstance(here.source, Computed):
        return []
    return [_inside(need) for need in here.source.needs(here.key, here.start, here.stop)]


def _inside(need: Read) -> Read:
    if isinstance(need.source, EmaSwapped):
        return need._replace(source=need.source.inner, key=need.source.key_inside(need.key))
    return need


def lines_below(result: Checkpoint) -> list[Computed]:
    """The computed checkpoints that ``result`` depends on, itself last, each once and after those it reads."""
    order: list[Computed] = []
    seen: set[int] = set()
    waiting: list[tuple[Checkpoint, bool]] = [(result, False)]
    while waiting:
        here, done = waiting.pop()
        here = here.inner if isinstance(here, EmaSwapped) else here
        if not isinstance(here, Computed):
            continue
        if done:
            order.append(here)
        elif id(here) not in seen:
            seen.add(id(here))
            waiting.append((here, True))
            waiting.extend((source, False) for source in here.sources)
    return order
