"""The items of a recipe line after its models: ratios, options of the method, settings."""

from dataclasses import dataclass, field
from typing import Any

from ...blocks.numbers import is_number, number, whole
from ..errors import MergeError
from ..methods import METHODS
from .model import CHOICES, LINE_REFERENCE, Line, LoraTerm
from .scanner import RecipeError, Span

_DEFAULT = {1: "scale", 2: "weighted_sum", 3: "add_difference"}
ADDED = ("scale", (("alpha", "1"),))  # method and ratios of a line with one model, as it is, and LoRAs
_FORMATS = ("safetensors", "ckpt")  # merge-board's file formats; the pack writes safetensors only


@dataclass
class _Found:
    """What the items of a line give, and where each was."""

    settings: dict[str, str | int] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    places: dict[str, tuple[Span, Span]] = field(default_factory=dict)

    def take(self, name: str, at: Span, value: Span) -> None:
        """Note an item; RecipeError when the line has it already."""
        if name in self.places:
            raise RecipeError(f"{name} is given twice. Remove one of them.", at)
        self.places[name] = (at, value)


def read_line(
    output: str,
    models: tuple[str, ...],
    loras: tuple[LoraTerm, ...],
    items: list[Span],
    line: Span,
    formula: Span,
    earlier: int,
) -> Line:
    """The line with these items; RecipeError points at the first that cannot be read."""
    found = _Found()
    for item in items:
        _read(item, found, earlier)
    method = str(found.settings.pop("method", _DEFAULT.get(len(models), "average")))
    _check_count(method, len(models), formula)
    settings: dict[str, Any] = dict(found.settings)
    if loras and len(models) == 1 and "method" not in found.places:
        if name := next(iter(found.numbers), None):
            raise RecipeError(
                f"A line with one model and LoRAs has no {name}. Write the strength in the LoRA, as in lora(name, 0.8).",
                found.places[name][0],
            )
        return Line(output, models, *ADDED, loras=loras, **settings)
    ratios, options = _ratios(method, found, line), _options(method, found)
    return Line(output, models, method, ratios, options, loras=loras, **settings)


def node_line(
    output: str,
    models: tuple[str, ...],
    method: str,
    ratios: dict[str, str],
    options: str,
    **settings: str | int,
) -> Line:
    """A line from the fields of a node, none of which is read as recipe text; ``options`` is ``name=number, ...``."""
    found = _Found()
    text = " ".join(options.splitlines())
    whole_text = Span(text, text, 0)
    for item in whole_text.split(","):
        name, value = item.cut("=")
        if not item.text:
            continue
        if value is None or name.text.lower() not in METHODS[method].options:
            known = ", ".join(METHODS[method].options) or "none"
            raise RecipeError(f"Cannot read {item.shown()} in options. Options of {method}: {known}.", item)
        found.take(name.text.lower(), name, value)
        found.numbers[name.text.lower()] = value.text
    _check_count(method, len(models), whole_text.part(0, 0))
    texts = tuple((name, " ".join(text.split())) for name, text in ratios.items())
    if empty := [name for name, text in texts if not text]:
        raise MergeError(f"The weights for {empty[0]} are empty. Write a number, a preset or a weight list.")
    return Line(output, models, method, texts, _options(method, found), **settings)  # pyright: ignore[reportArgumentType]


def check_reference(term: Span, earlier: int) -> None:
    """RecipeError when a term names the result of a line that is not before this one."""
    match = LINE_REFERENCE.match(term.text)
    if match and not 1 <= int(match.group(1)) <= earlier:
        before = f"Available: __O1__ to __O{earlier}__." if earlier else "No line is before this one."
        raise RecipeError(f"{term.text} is not the result of an earlier line. {before}", term)


def _read(item: Span, found: _Found, earlier: int) -> None:
    name, value = item.cut("=")
    if value is None:
        return _read_bare(item, found)
    key, given = name.text.lower(), value.unquoted()
    found.take(key, name, value)
    if key == "method":
        if given not in METHODS:
            raise RecipeError(f"Unknown method {value.shown()}. Available: {', '.join(METHODS)}.", value)
        found.settings[key] = given
    elif key in CHOICES:
        if given not in CHOICES[key]:
            raise RecipeError(f"{key} must be one of {', '.join(CHOICES[key])}, not {value.shown()}.", value)
        found.settings[key] = given
    elif key == "seed":
        try:
            found.settings[key] = whole(given)
        except ValueError as error:
            raise RecipeError(f"seed must be a whole number from 0 on. {error}", value) from None
    elif key in ("elemental", "vae"):
        if key == "vae":
            check_reference(value, earlier)
        found.settings[key] = given
    else:
        found.numbers[key] = given


def _read_bare(item: Span, found: _Found) -> None:
    if is_number(item.text) and "alpha" not in found.numbers:
        found.take("alpha", item, item)
        found.numbers["alpha"] = item.text
    elif item.text == "fp16":
        found.take("dtype", item, item)
        found.settings["dtype"] = "fp16"
    elif item.text not in _FORMATS:
        raise RecipeError(
            f"Cannot read {item.shown()}. Expected a ratio, fp16, safetensors, or name=value.", item
        )


def _check_count(method_name: str, count: int, at: Span) -> None:
    method = METHODS[method_name]
    if count >= method.least and (method.most is None or count <= method.most):
        return
    wanted = f"{method.least} or more" if method.most is None else f"{method.least} to {method.most}"
    wanted = str(method.least) if method.least == method.most else wanted
    raise RecipeError(f"{method_name} takes {wanted} models, {count} are given.", at)


def _ratios(method_name: str, found: _Found, line: Span) -> tuple[tuple[str, str], ...]:
    method, ratios = METHODS[method_name], list[tuple[str, str]]()
    for name in method.ratios:
        text = found.numbers.pop(name, None)
        if text is None and method.complement and name == method.complement[0]:
            continue
        if text is None:
            raise RecipeError(f"{method_name} needs {name}=..., a number, a preset or a weight list.", line)
        if not text:
            raise RecipeError(
                f"{name} is empty. Write a number, a preset or a weight list.", found.places[name][1]
            )
        if is_number(text):
            _number(name, text, found.places[name][1])
        ratios.append((name, " ".join(text.split())))
    return tuple(ratios)


def _options(method_name: str, found: _Found) -> tuple[tuple[str, float], ...]:
    method, options = METHODS[method_name], list[tuple[str, float]]()
    for name, text in found.numbers.items():
        at, value = found.places[name]
        if name not in method.options:
            known = [*method.ratios, *method.options, "method", "elemental", "seed", "vae", *CHOICES]
            raise RecipeError(f"{method_name} has no {at.shown()}. Available: {', '.join(known)}.", at)
        options.append((name, _number(name, text, value)))
    return tuple(options)


def _number(name: str, text: str, at: Span) -> float:
    try:
        return number(text)
    except ValueError as error:
        raise RecipeError(f"{name} must be a number. {error}", at) from None
