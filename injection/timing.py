"""When an injection acts: windows of the sampling, turned into noise levels.

A window is half open in time, so in noise levels it is ``end < sigma <= start``: two windows that abut never
act together and never leave a gap, whichever sigma a sampler evaluates. Steps are counted from the first sigma that
the sampler is given: with KSampler (Advanced) from its own start, with Flip Sigmas from the lowest level upwards.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..blocks.spec import LAST_STEP, Setting, Window
from .entries import Injection, InjectionError, Stretch

log = logging.getLogger("blockwork")


@dataclass(frozen=True)
class Levels:
    """A stretch of noise levels: ``lower < sigma <= upper`` falling, ``lower <= sigma < upper`` rising."""

    lower: float
    upper: float
    rising: bool = False

    def hold(self, sigma: float) -> bool:
        """Whether ``sigma`` lies in the stretch."""
        return self.lower <= sigma < self.upper if self.rising else self.lower < sigma <= self.upper


@dataclass
class Clock:
    """Tells which windows hold at ``sigma``.

    ``percent_to_sigma`` is the model's, ``steps`` the sampler's sigmas (``n + 1`` of them).
    ``sigma`` is read at most once, and only when some window is not the whole sampling.
    """

    percent_to_sigma: Callable[[float], float]
    steps: Sequence[float] | None
    read_sigma: Callable[[], float]
    levels: dict[Window, Levels] = field(default_factory=dict)
    sigma: float | None = None

    def holds(self, window: Window | None) -> bool:
        """Whether the window covers the present noise level."""
        if window is None or window == Window():
            return True
        if self.sigma is None:
            self.sigma = self.read_sigma()
        if window not in self.levels:
            self.levels[window] = noise_levels(window, self.percent_to_sigma, self.steps)
        return self.levels[window].hold(self.sigma)


def noise_levels(
    window: Window, percent_to_sigma: Callable[[float], float], steps: Sequence[float] | None
) -> Levels:
    """The noise levels of a window; the first and the last one of a sampling reach to the very ends."""
    if window.unit == "percent":
        upper = math.inf if window.start <= 0 else percent_to_sigma(window.start)
        lower = -math.inf if window.end >= 1 else percent_to_sigma(window.end)
        return Levels(lower, upper)
    if steps is None:
        raise InjectionError(
            "The injection is timed in sampler steps, and nothing says which step this is. Use start_percent and "
            "end_percent (@0-0.4 in blocks) with this sampler."
        )
    count = len(steps) - 1
    rising = count > 0 and float(steps[0]) < float(steps[-1])
    if window.start >= count:
        log.warning(
            "An injection starts at step %d, but this sampling has only %d steps.", window.start, count
        )
        return Levels(math.inf, math.inf)
    first, last = float(steps[int(window.start)]), float(steps[min(int(window.end), count)])
    begins, ends = window.start <= 0, window.end >= count
    if rising:
        return Levels(-math.inf if begins else first, math.inf if ends else last, rising=True)
    return Levels(-math.inf if ends else last, math.inf if begins else first)


def present(stretches: Sequence[Stretch], clock: Clock) -> Stretch | None:
    """The entry of a schedule that holds now, if any does."""
    return next((stretch for stretch in stretches if clock.holds(stretch.window)), None)


def acts(injection: Injection, setting: Setting, clock: Clock) -> bool:
    """Whether a setting of an injection is in force now."""
    return all(map(clock.holds, injection.windows)) and clock.holds(setting.window)


def windows(
    start_percent: float = 0.0, end_percent: float = 1.0, first_step: int = 0, last_step: int = LAST_STEP
) -> tuple[Window, ...]:
    """The windows that a node's four numbers ask for; InjectionError for an empty one."""
    asked = (Window(start_percent, end_percent), Window(first_step, last_step, "step"))
    for window in asked:
        if not window.start < window.end:  # also where one is not a number
            raise InjectionError(
                f"The injection would never act: it starts at {window.start:g} and ends at {window.end:g} "
                f"({window.unit}). Set a start that is before the end."
            )
    return tuple(w for w in asked if w not in (Window(), Window(0, LAST_STEP, "step")))
