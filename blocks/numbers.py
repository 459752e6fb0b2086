"""The one grammar of numbers in the pack's texts: ``1``, ``-0.5``, ``.25``, ``1e-3``; ASCII digits, always finite."""

import math
import re

NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"  # a part of larger patterns; scans in linear time
LONGEST = 64  # characters of one number

_NUMBER = re.compile(NUMBER)
_WHOLE = re.compile(r"[0-9]+")


def is_number(text: str) -> bool:
    """Whether the whole text, white space aside, has the form of a number: ``is_number(" 0.5 ")``."""
    return _NUMBER.fullmatch(text.strip()) is not None


def number(text: str) -> float:
    """The finite number that the text writes; ValueError quotes a text that is not one."""
    stripped = _short(text)
    if not is_number(stripped):
        raise ValueError(f"{stripped!r} is not a number.")
    value = float(stripped)
    if not math.isfinite(value):
        raise ValueError(f"{stripped!r} is beyond the range of numbers.")
    return value


def whole(text: str) -> int:
    """The whole number, 0 or more, that the text writes; ValueError quotes a text that is not one."""
    stripped = _short(text)
    if not _WHOLE.fullmatch(stripped):
        raise ValueError(f"{stripped!r} is not a whole number.")
    return int(stripped)


def number_text(value: float) -> str:
    """The shortest text that reads back as the same float: ``0.25``, ``1``."""
    return repr(float(value)).removesuffix(".0")


def _short(text: str) -> str:
    stripped = text.strip()
    if len(stripped) > LONGEST:
        raise ValueError(f"A number of {len(stripped)} characters was given; the limit is {LONGEST}.")
    return stripped
