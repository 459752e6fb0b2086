"""Names of studies: what a graph may call one. A name is never a path and never an address."""

import re

from .errors import SearchError

LONGEST = 64
_NAME = re.compile(r"[^\W_](?:[\w .-]*[\w-])?")
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}


def checked_name(name: str) -> str:
    """The name of a study, or a SearchError that says what a name may be."""
    valid = len(name) <= LONGEST and _NAME.fullmatch(name) and ".." not in name
    if not valid or name.partition(".")[0].upper() in _RESERVED:
        raise SearchError(
            f"{name[:80]!r} is not a valid name of a study. Use up to {LONGEST} letters, digits, spaces, dots, dashes "
            "and underscores, beginning with a letter or a digit."
        )
    return name
