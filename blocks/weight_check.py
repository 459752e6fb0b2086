"""What can be said of a weight text before a model is known."""

import difflib
from collections.abc import Collection

from . import presets
from .names import BlockError
from .weights import _FIXED, LONGEST_TEXT, OFF, _label, _looks_numeric, _number, _quote, _split


def check(text: str, own_presets: Collection[str] = ()) -> None:
    """What can be checked before a model is known: empty items, finite numbers, presets that some layout has.

    BlockError quotes what is wrong. Block names are left to ``parse``, because only the model decides about them.
    """
    if len(text) > LONGEST_TEXT:
        raise BlockError(
            f"The weights have {len(text)} characters; the limit is {LONGEST_TEXT}. Use a shorter text."
        )
    label, body = _label(text)
    items = _split(_label(body)[1] if label.lower() in _FIXED else body)
    if not items:
        raise BlockError(
            "No weights are given. Use numbers, a preset such as GRAD_V, or pairs such as IN00=0.75."
        )
    known = {*own_presets, *presets.names("sd1"), *presets.names("sdxl"), *presets.THIRDS}
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not item or (equals and not name):
            raise BlockError(
                f"The weights {_quote(text)} have an empty item. Remove the comma or write a name."
            )
        if equals and value.lower() != OFF:
            _number(value, text)
        elif not equals and _looks_numeric(item):
            _number(item, text)
        elif not equals and item not in known:
            near = difflib.get_close_matches(item[:80].upper(), known, n=3, cutoff=0.4)
            advice = f" Did you mean {', '.join(near)}?" if near else ""
            raise BlockError(f"Unknown preset {item[:80]!r}.{advice}")
