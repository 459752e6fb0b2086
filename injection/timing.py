"""When an injection acts: windows of the sampling, turned into noise levels.

A window is half open in time, so in noise levels it is ``end < sigma <= start``: two windows that abut never
act together and never leave a gap, whichever sigma a sampler evaluates.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..blocks.spec import Setting, Window
from .entries import Injection, InjectionError, Stretch

log = logging.getLogger("blockwork")
LAST_STEP = 10000  # "to the end", as in ComfyUI's advanced sampler

Levels = tuple[float, float]  # (lower, upper): acts while lower < sigma <= upper


@dataclass
class Clock:
    """Tells which windows hold at ``sigma``.

    ``percent_to_sigma`` is the model's, ``steps`` the sampler's sigmas (``n + 1`` of them, falling).
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
        lower, upper = self.levels[window]
        return lower < self.sigma <= upper


def noise_levels(
    window: Window, percent_to_sigma: Callable[[float], float], steps: Sequence[float] | None
) -> Levels:
    """The noise levels of a window; the first and the last one of a sampling reach to the very ends."""
    if window.unit == "percent":
        upper = math.inf if window.start <= 0 else percent_to_sigma(window.start)
        lower = -math.inf if window.end >= 1 else percent_to_sigma(window.end)
        return lower, upper
    if steps is None:
        raise RuntimeError("a window in sampler steps needs a sampler: nothing says which step this is.")
    count = len(steps) - 1
    if window.start >= count:
        log.warning("an injection starts at step %d, but this sampling has only %d.", window.start, count)
        return math.inf, math.inf
    upper = math.inf if window.start <= 0 else float(steps[int(window.start)])
    lower = -math.inf if window.end >= count else float(steps[int(window.end)])
    return lower, upper


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
        if window.start >= window.end:
            raise InjectionError(
                f"the injection would never act: it starts at {window.start:g} and ends at {window.end:g} "
                f"({window.unit}). Let it start before it ends."
            )
    return tuple(w for w in asked if w not in (Window(), Window(0, LAST_STEP, "step")))
