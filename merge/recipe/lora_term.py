"""LoRA terms of a recipe line: ``lora(name, 0.8, [IN04-IN08=0.5])``; strength and weights may be left out.

The name is that of a file in ComfyUI's folder ``loras``. The weights are any text that Load LoRA by Block reads.
"""

from ...blocks.numbers import is_number, number, number_text
from .model import LINE_REFERENCE, LoraTerm
from .scanner import LORA, RecipeError, Span, always_quoted, quoted

FORM = "Write lora(name, strength, [weights])."


def is_lora(term: Span) -> bool:
    """Whether a term of a formula is a LoRA."""
    return term.text.startswith(LORA)


def read_lora(term: Span) -> LoraTerm:
    """The LoRA that a term names; RecipeError points at the part that cannot be read."""
    end = term.closing(0)
    if end != len(term.text) - 1:
        raise RecipeError(
            f"There is text after {LORA}...). Write + before the next term, or put the name of a model between quotes.",
            term.part(end + 1).strip(),
        )
    name, *items = term.part(len(LORA), end).split(",")
    if not name.text:
        raise RecipeError(f"The LoRA has no name. {FORM}", name)
    if LINE_REFERENCE.match(name.text):
        raise RecipeError(f"{name.text} is the result of a line and not a LoRA file. {FORM}", name)
    found: dict[str, str] = {}
    for item in items:
        key, value = _item(item)
        if key in found:
            raise RecipeError(f"The {key} of the LoRA is given twice. {FORM}", item)
        found[key] = value
    weights = " ".join(found.get("weights", "1").split())
    return LoraTerm(name.unquoted(), float(found.get("strength", 1.0)), weights)


def lora_text(term: LoraTerm) -> str:
    """The term as text that ``read_lora`` reads back equal."""
    name = always_quoted(term.name) if set(term.name) & set("()") else quoted(term.name)
    weights = "" if term.weights == "1" else f", [{term.weights}]"
    return f"{LORA}{name}, {number_text(term.strength)}{weights})"


def _item(item: Span) -> tuple[str, str]:
    """``strength`` or ``weights`` and its text."""
    name, value = (item, None) if item.text.startswith("[") else item.cut("=")
    if value is None:
        if is_number(item.text):
            return "strength", item.text
        value, key = item, "weights"
    else:
        key = name.text.lower()
    if key not in ("strength", "weights"):
        raise RecipeError(f"A LoRA has no {name.shown()}. {FORM}", name)
    text = value.unquoted()
    if not text.strip():
        raise RecipeError(f"The {key} of the LoRA is empty. {FORM}", value)
    if key == "strength":
        try:
            number(text)
        except ValueError as error:
            raise RecipeError(f"The strength of the LoRA must be a number. {error}", value) from None
    return key, text
