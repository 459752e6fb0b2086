"""Interleaved measuring for the benchmark scripts: every contender once per round, medians and ratios of rounds.

CPU seconds (user and system, all threads) are what counts on a shared machine; wall seconds are printed beside them.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Timing:
    """CPU and wall seconds of every round of one contender."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        """``name: cpu median (min), wall median``."""
        return (
            f"{name}: {statistics.median(self.cpu):.4f} CPU s (min {min(self.cpu):.4f}), "
            f"{statistics.median(self.wall):.4f} s wall"
        )


@contextmanager
def timed(timing: Timing) -> Iterator[None]:
    """Add what runs inside as one more round of ``timing``."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    timing.cpu.append(time.process_time() - cpu)
    timing.wall.append(time.perf_counter() - wall)


def interleave(
    contenders: dict[str, Callable[[], object]],
    rounds: int,
    after: Callable[[object], None] = lambda result: None,
) -> dict[str, Timing]:
    """Time every contender ``rounds`` times, in turn; ``after(result)`` cleans up outside the clock."""
    timings = {name: Timing() for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            with timed(timings[name]):
                result = run()
            after(result)
            del result
    return timings


def ratio_line(name: str, ours: Timing, peer: Timing) -> str:
    """``name: ours, peer, ratio``: medians of CPU seconds and the median of the rounds' own ratios."""
    ratio = statistics.median(a / b for a, b in zip(ours.cpu, peer.cpu, strict=True))
    return f"{name}: {statistics.median(ours.cpu):.4f}, {statistics.median(peer.cpu):.4f}, {ratio:.3f}"
