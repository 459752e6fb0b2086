"""What can be said of a block spec before a model is known."""

import re

from . import presets, weight_check
from .spec import _BLOCK_LIKE, LONGEST, SpecError, _is_list_of_numbers, _setting, _split, folded
from .spec_names import _DIGITS, _INNER, _PATTERNS, Fault, _meant, _short, _without_step

GROUPS = ("all", "down", "mid", "up", "coarse", "fine")  # besides the resolutions
FORMS = "Blocks are written IN07, M00, OUT03-OUT11, B07, input:7, idx:6, or as groups: all, coarse, fine, 16."


def check(text: str) -> None:
    """The suffixes, the form of names and ranges, and lists of weights; which blocks there are is left to ``parse``.

    SpecError points at the place, as for ``parse``; BlockError for a list of weights.
    """
    text = folded(text)
    if len(text) > LONGEST:
        problem = f"The block spec has {len(text)} characters; the limit is {LONGEST}."
        raise SpecError(problem, text, 0, 20, FORMS)
    name = text.strip()
    known = {*presets.names("sd1"), *presets.names("sdxl"), *presets.THIRDS}
    if _is_list_of_numbers(text) or (name in known and not _BLOCK_LIKE.match(name)):
        return weight_check.check(text)
    items = _split(text)
    if not items:
        raise SpecError("The block spec is empty.", text, 0, 1, FORMS)
    for start, end in items:
        try:
            _, body = _setting(text, start, end)
            if body != "_":
                _check_selection(body)
        except Fault as fault:
            raise SpecError(fault.problem, text, start + fault.start, start + fault.end, FORMS) from None


def _check_selection(text: str) -> None:
    """Fault where a selection has no form that some model could read; which blocks there are is left to Selector."""
    body, _ = _without_step(text)
    plain = body.strip()
    if plain.lower() in GROUPS or re.fullmatch(_DIGITS, plain):
        return
    dash, last = _form(body, 0)
    if not dash:
        return
    place = len(body) - len(last)
    if not re.fullmatch(_DIGITS, last.strip()) and any(_form(body, place)):
        raise Fault("A range runs between whole blocks.", place, len(body))


def _form(text: str, start: int) -> tuple[str, str]:
    """The dash after the end point at ``start`` of a selection, and what follows the dash."""
    for pattern in _PATTERNS.values():
        if match := pattern.match(text, start):
            inner = _INNER.match(text, match.end())
            end = inner.end() if inner else match.end()
            rest = text[end:].lstrip()
            if rest and (inner or not rest.startswith("-")):
                place = len(text) - len(rest)
                raise Fault(f"Cannot read {_short(rest)!r} after {text[:end].strip()!r}.", place, len(text))
            return rest[:1], rest[1:].lstrip()
    unknown = text[start:].strip()
    raise Fault(f"Unknown block {_short(unknown)!r}.{_meant(unknown, GROUPS)}", start, len(text))
