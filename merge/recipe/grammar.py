"""Merge recipes as text: parse -> immutable recipe -> run; ``parse(to_text(recipe)) == recipe``.

The grammar is that of bbc-mc's merge-board, read as it is, and a superset of it::

    # a comment
    __SD15__ = sd15.safetensors                     a variable bound to a file (merge-board: left to the user)
    __WD13__, any anime model will do               a variable with a note
    mix = __SD15__ + other model, 0.3, fp16         weighted sum
    out = __O1__ + B + C, 1.0, safetensors          add difference, A the result of line 1
    out = A + B, alpha=[GRAD_V, BASE=0.2], method=slerp, elemental="OUT03:attn2:0.5", dtype=bf16
    O=test/IN00, IN_A_00=0.75, Model_A=A            a command line of mbw_each
    pin sd15.safetensors = <sha256>                 the file must have this hash

A weight list is any text that block weights take (numbers, preset, name=value pairs); CLIP and VAE name the
text encoder and the VAE. There is no limit of ten lines. Sources: merge-board ``recipe_parser.py``, mbw_each README.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...blocks.numbers import is_number
from ..methods import METHODS
from . import mbw_each
from .scanner import RecipeError, Span, always_quoted, quoted, without_comment

CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("same", "fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"),
    "key_map": ("mbw", "supermerger", "mecha", "comfy"),
    "ema": ("keep", "drop", "swap"),
    "prune": ("no", "yes"),
    "position_ids": ("auto", "skip", "reset"),
    "extra_keys": ("ignore", "copy"),
    "nan": ("error", "keep_a"),
}
LINE_REFERENCE = re.compile(r"__O(\d+)__$")
VARIABLE = re.compile(r"__(?!O\d+__$)\w+__$")
_PIN = re.compile(r"pin\s+(.+?)\s*=\s*([0-9a-fA-F]{64})$")


@dataclass(frozen=True)
class Line:
    """One merge: ``output = models[0] + models[1] + ...`` by ``method``; the next lines may use its result.

    ``ratios`` are weight texts by ratio name, ``options`` numbers of the method; every other field is one of
    ``CHOICES`` (its first value is the default), a model name (``vae``) or text.
    """

    output: str
    models: tuple[str, ...]
    method: str = "weighted_sum"
    ratios: tuple[tuple[str, str], ...] = (("alpha", "0.5"),)
    options: tuple[tuple[str, float], ...] = ()
    elemental: str = ""
    seed: int = 0
    vae: str = ""
    dtype: str = "same"
    key_map: str = "mbw"
    ema: str = "keep"
    prune: str = "no"
    position_ids: str = "auto"
    extra_keys: str = "ignore"
    nan: str = "error"


@dataclass(frozen=True)
class Recipe:
    """Lines in the order they run, variables bound to files, notes on variables, hashes of files."""

    lines: tuple[Line, ...]
    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    pins: tuple[tuple[str, str], ...] = ()

    def sources(self) -> tuple[str, ...]:
        """Names of the files (or free variables) the lines read, in order of first use."""
        bound = dict(self.variables)
        names: dict[str, None] = {}
        for line in self.lines:
            for name in (*line.models, *([line.vae] if line.vae else [])):
                if not LINE_REFERENCE.match(name):
                    names[bound.get(name, name)] = None
        return tuple(names)

    def free(self) -> tuple[str, ...]:
        """Variables that no file is bound to yet."""
        return tuple(name for name in self.sources() if VARIABLE.match(name))

    def bind(self, files: Mapping[str, str]) -> "Recipe":
        """The recipe with variables bound to files: ``recipe.bind({"__SD15__": "sd15.safetensors"})``."""
        named = {
            name if VARIABLE.match(name) else f"__{name.strip('_')}__": file for name, file in files.items()
        }
        return replace(self, variables=tuple({**dict(self.variables), **named}.items()))

    def pinned(self, hashes: Mapping[str, str]) -> "Recipe":
        """The recipe with the sha256 of its files."""
        return replace(self, pins=tuple({**dict(self.pins), **hashes}.items()))


def parse(text: str) -> Recipe:
    """Read a recipe; RecipeError names line and column of the first thing that cannot be read."""
    lines: list[Line] = []
    variables: dict[str, str] = {}
    notes: dict[str, str] = {}
    pins: dict[str, str] = {}
    for number, whole in enumerate(text.splitlines(), start=1):
        line = without_comment(Span(whole, whole, number))
        if not line.text:
            continue
        if pin := _PIN.match(line.text):
            pins[_unquote(pin.group(1))] = pin.group(2).lower()
        elif line.text.startswith("_") and not _is_merge(line):
            _variable(line, variables, notes)
        elif mbw_each.is_command(line):
            lines.append(_each_line(line, len(lines)))
        else:
            lines.append(_merge_line(line, len(lines)))
    if not lines:
        end = Span("", "", len(text.splitlines()) + 1)
        raise RecipeError("the recipe has no merge line such as `out = A + B, 0.5`", end)
    return Recipe(tuple(lines), tuple(variables.items()), tuple(notes.items()), tuple(pins.items()))


def to_text(recipe: Recipe) -> str:
    """The recipe as text that ``parse`` reads back equal."""
    lines = [f"{name} = {quoted(file)}" for name, file in recipe.variables]
    lines += [f"{name}, {note}" for name, note in recipe.notes]
    lines += [_line_text(line) for line in recipe.lines]
    lines += [f"pin {quoted(name)} = {digest}" for name, digest in recipe.pins]
    return "\n".join(lines) + "\n"


def _is_merge(line: Span) -> bool:
    _, right = line.cut("=")
    return right is not None and bool(right.split(",")[0].find("+"))


def _variable(line: Span, variables: dict[str, str], notes: dict[str, str]) -> None:
    head, note = line.cut(",")
    name, file = head.cut("=")
    if not VARIABLE.match(name.text) and not LINE_REFERENCE.match(name.text):
        raise RecipeError(f"{name.text!r} is no variable; write __NAME__ with letters, digits and _", name)
    if file is not None and file.text:
        if LINE_REFERENCE.match(name.text):
            raise RecipeError(
                f"{name.text} stands for the result of a line and cannot be bound to a file", name
            )
        variables[name.text] = file.unquoted()
    if note is not None and note.text:
        notes[name.text] = note.text


def _merge_line(line: Span, earlier: int) -> Line:
    head, *items = line.split(",")
    output, formula = head.cut("=")
    if formula is None:
        raise RecipeError("expected `output = A + B, ratio`", line)
    if not output.text:
        raise RecipeError("the result has no name; write one before the =", output)
    terms = formula.split(" + " if formula.find(" + ") else "+")
    for term in terms:
        if not term.text:
            raise RecipeError("a model name is missing", term)
        _check_reference(term, earlier)
    models = tuple(term.unquoted() for term in terms)
    fields = _items(items, earlier)
    default = {1: "scale", 2: "weighted_sum", 3: "add_difference"}.get(len(models), "average")
    method = METHODS[fields.pop("method", default)]
    most = method.most or 7
    if not method.least <= len(models) <= most:
        wanted = method.least if method.least == most else f"{method.least} to {most}"
        raise RecipeError(f"{method.name} takes {wanted} models, {len(models)} are given", formula)
    return Line(output.unquoted(), models, method.name, **_numbers(fields, method.name, line))


def _items(items: list[Span], earlier: int) -> dict:
    """The comma-separated items after the formula, checked one by one."""
    fields: dict = {"numbers": {}, "places": {}}
    for item in items:
        name, value = item.cut("=")
        if value is None:
            _bare_item(item, fields)
            continue
        key, given = name.text.lower(), value.unquoted()
        if key == "method":
            if given not in METHODS:
                raise RecipeError(f"unknown method {given!r}; known are {', '.join(METHODS)}", value)
            fields[key] = given
        elif key in CHOICES:
            if given not in CHOICES[key]:
                raise RecipeError(f"{key} is one of {', '.join(CHOICES[key])}, not {given!r}", value)
            fields[key] = given
        elif key == "seed":
            if not given.isdigit():
                raise RecipeError(f"seed is a whole number from 0 on, not {given!r}", value)
            fields[key] = int(given)
        elif key in ("elemental", "vae"):
            if key == "vae":
                _check_reference(value, earlier)
            fields[key] = given
        else:
            fields["numbers"][key] = given
            fields["places"][key] = (name, value)
    return fields


def _bare_item(item: Span, fields: dict) -> None:
    if is_number(item.text) and "alpha" not in fields["numbers"]:
        fields["numbers"]["alpha"] = item.text
        fields["places"]["alpha"] = (item, item)
    elif item.text == "fp16":
        fields["dtype"] = "fp16"
    elif item.text not in ("safetensors", "ckpt"):  # merge-board's file format; we write safetensors only
        raise RecipeError(
            f"cannot read {item.text!r}; expected a ratio, fp16, safetensors, or name=value", item
        )


def _numbers(fields: dict, method_name: str, line: Span) -> dict:
    """Sort the remaining numbers into ratios and options of the method."""
    method, numbers, places = METHODS[method_name], fields.pop("numbers"), fields.pop("places")
    ratios: list[tuple[str, str]] = []
    for name in method.ratios:
        text = numbers.pop(name, None)
        if text is None and method.complement and name == method.complement[0]:
            continue
        if text is None:
            raise RecipeError(f"{method_name} needs {name}=..., a number, a preset or a weight list", line)
        if not text:
            raise RecipeError(f"{name} is empty", places[name][1])
        ratios.append((name, " ".join(text.split())))
    options: list[tuple[str, float]] = []
    for name, text in numbers.items():
        if name not in method.options:
            known = [*method.ratios, *method.options, "method", "elemental", "seed", "vae", *CHOICES]
            raise RecipeError(
                f"{method_name} has no {name!r}; known here are {', '.join(known)}", places[name][0]
            )
        if not is_number(text):
            raise RecipeError(f"{name} is a number, not {text!r}", places[name][1])
        options.append((name, float(text)))
    return {"ratios": tuple(ratios), "options": tuple(options), **fields}


def _check_reference(term: Span, earlier: int) -> None:
    match = LINE_REFERENCE.match(term.text)
    if match and not 1 <= int(match.group(1)) <= earlier:
        before = (
            f"the lines before it are __O1__ to __O{earlier}__" if earlier else "no line stands before it"
        )
        raise RecipeError(f"{term.text} is not the result of an earlier line; {before}", term)


def _each_line(line: Span, earlier: int) -> Line:
    command = mbw_each.read(line, earlier)
    for name in (command.model_a, command.model_b):
        _check_reference(Span(name, line.whole, line.line, line.start), earlier)
    ratios = (("m_a", command.m_a), ("m_b", command.m_b))
    return Line(command.output, (command.model_a, command.model_b), "each", ratios)


def _line_text(line: Line) -> str:
    items = [f"{quoted(line.output)} = {' + '.join(map(quoted, line.models))}"]
    for name, text in line.ratios:
        if name == "alpha" and is_number(text):
            items.append(text)
        else:
            items.append(f"{name}={text}" if re.fullmatch(r"[\w.+*/-]+", text) else f"{name}=[{text}]")
    items += [f"{name}={value!r}" for name, value in line.options]
    items.append(f"method={line.method}")
    items += [f"elemental={always_quoted(line.elemental)}"] if line.elemental else []
    items += [f"vae={quoted(line.vae)}"] if line.vae else []
    items += [f"seed={line.seed}"] if line.seed else []
    items += [
        f"{name}={getattr(line, name)}" for name, known in CHOICES.items() if getattr(line, name) != known[0]
    ]
    return ", ".join(items)


def _unquote(text: str) -> str:
    return Span(text, text, 0).unquoted()
