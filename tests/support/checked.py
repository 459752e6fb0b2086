"""A reader of a grammar together with the check that runs before a model is known."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any


def checked(
    read: Callable[..., Any], check: Callable[[str], Any], errors: type[Exception]
) -> Callable[..., Any]:
    """``read``, and the law that ``check`` takes every text that it takes, and fails only by errors of the pack."""

    @functools.wraps(read)
    def wrapped(text: str, *given: Any, **named: Any) -> Any:
        try:
            found = read(text, *given, **named)
        except errors:
            with contextlib.suppress(errors):
                check(text)
            raise
        if "own_presets" not in named:
            check(text)
        return found

    return wrapped
