"""Command lines of bbc-mc's mbw_each: ``O=out, IN_A_00=0.75, Model_A=a, preset_weights=GRAD_V``."""

import re
from dataclasses import dataclass

from ...blocks import presets
from ...blocks.names import BASE, SD1, BlockError
from ...blocks.numbers import number, number_text
from .scanner import RecipeError, Span

_BLOCK = re.compile(r"(IN|M|OUT)_(?:([AB])_)?([0-9]{2})$", re.IGNORECASE)
_NAMES = ("o", "model_a", "model_b", "base_alpha", "preset_weights")


@dataclass(frozen=True)
class EachCommand:
    """One such line: weight texts of 26 numbers, BASE first."""

    output: str
    model_a: str
    model_b: str
    m_a: str
    m_b: str


def is_command(line: Span) -> bool:
    """Whether every item is ``name=value`` and the first name is one of mbw_each's."""
    items = line.split(",")
    if any(item.cut("=")[1] is None for item in items if item.text):
        return False
    name, value = items[0].cut("=")
    known = name.text.lower() in _NAMES or _BLOCK.match(name.text)
    return bool(known) and value is not None and not value.find(" + ") and _mentions_each(items)


def _mentions_each(items: list[Span]) -> bool:
    """An output named O alone could be anyone's: some item must be mbw_each's own."""
    names = [item.cut("=")[0].text for item in items if item.text]
    return (
        names != ["O"]
        and names != ["o"]
        and all(name.lower() in _NAMES or _looks_like_block(name) for name in names)
    )


def _looks_like_block(name: str) -> bool:
    return name.upper().startswith(("IN_", "M_", "OUT_"))


def read(line: Span, earlier: int) -> EachCommand:
    """Apply the items in order, later ones winning, to M_A = 1, M_B = 0, base_alpha = 0.

    mbw_each takes what a line leaves out from its sliders; there are none here, so the start is A untouched and
    the models are the variables ``__A__`` and ``__B__``. ``M_00=v`` without a letter is the share of B.
    """
    m_a, m_b = dict.fromkeys(SD1.blocks, 1.0), dict.fromkeys(SD1.blocks, 0.0)
    texts = {"o": f"each{earlier + 1}", "model_a": "__A__", "model_b": "__B__"}
    base = 0.0
    for item in line.split(","):
        if not item.text:
            continue
        name, value = item.cut("=")
        assert value is not None  # is_command has looked
        key = name.text.lower()
        if key in texts:
            texts[key] = value.unquoted() or texts[key]
        elif key == "preset_weights":
            m_b = dict(zip(SD1.blocks, _preset(value), strict=True))
            m_a = {block: 1 - share for block, share in m_b.items()}
        elif key == "base_alpha":
            base = _number(value)
        else:
            block, side = _block(name)
            share = _number(value)
            if side in ("B", ""):
                m_b[block] = share
            if side in ("A", ""):
                m_a[block] = share if side else 1 - share
    return EachCommand(
        texts["o"],
        texts["model_a"],
        texts["model_b"],
        _list({BASE: 1 - base, **m_a}),
        _list({BASE: base, **m_b}),
    )


def _list(numbers: dict[str, float]) -> str:
    return ", ".join(number_text(value) for value in numbers.values())


def _preset(value: Span) -> list[float]:
    try:
        return presets.preset(value.text)
    except BlockError as error:
        raise RecipeError(str(error), value) from None


def _block(name: Span) -> tuple[str, str]:
    match = _BLOCK.match(name.text)
    block = f"{match.group(1).upper()}{match.group(3)}" if match else ""
    if not match or block not in SD1.blocks:
        raise RecipeError(
            f"Unknown mbw_each name {name.shown()}. Available: IN_A_00..IN_B_11, M_A_00, M_B_00, OUT_A_00..OUT_B_11, "
            "O, Model_A, Model_B, base_alpha, preset_weights.",
            name,
        )
    return block, (match.group(2) or "").upper()


def _number(value: Span) -> float:
    try:
        return number(value.text)
    except ValueError as error:
        raise RecipeError(str(error), value) from None
