"""Merge recipes as text: parse -> immutable recipe -> run; ``parse(to_text(recipe)) == recipe``.

The grammar is that of bbc-mc's merge-board, read as it is, and a superset of it::

    # a comment
    __SD15__ = sd15.safetensors                     a variable bound to a file (merge-board leaves this to the user)
    __WD13__, any anime model will do               a variable with a note
    mix = __SD15__ + other model, 0.3, fp16         weighted sum
    out = __O1__ + B + C, 1.0, safetensors          add difference, A the result of line 1
    out = A + B, alpha=[GRAD_V, BASE=0.2], method=slerp, elemental="OUT03:attn2:0.5", dtype=bf16
    O=test/IN00, IN_A_00=0.75, Model_A=A            a command line of mbw_each
    mix = A + lora(style, 0.8, [IN04-IN08=0.5])     a LoRA with strength and block weights, on A or on a merge
    pin sd15.safetensors = <sha256>                 the file must have this hash

A weight list is any text that block weights take (numbers, preset, name=value pairs); CLIP and VAE name the
text encoder and the VAE. A recipe has at most 1 MB and a line 10,000 characters. Sources: merge-board ``recipe_parser.py``, mbw_each README.
"""

import re

from ...blocks.numbers import is_number
from ..errors import MergeError
from . import mbw_each
from .items import ADDED, check_reference, read_line
from .lora_term import is_lora, lora_text, read_lora
from .model import CHOICES, LINE_REFERENCE, VARIABLE, Line, LoraTerm, Recipe
from .scanner import LORA, RecipeError, Span, always_quoted, quoted, without_comment

LONGEST_RECIPE, LONGEST_LINE = 1_000_000, 10_000  # characters
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def parse(text: str) -> Recipe:
    """Read a recipe; RecipeError names line and column of the first thing that cannot be read."""
    if len(text) > LONGEST_RECIPE:
        raise RecipeError(
            f"The recipe has {len(text)} characters; the limit is {LONGEST_RECIPE}. Use a shorter text.",
            Span("", "", 1),
        )
    lines: list[Line] = []
    variables: dict[str, str] = {}
    notes: dict[str, str] = {}
    pins: dict[str, str] = {}
    for number, whole in enumerate(text.splitlines(), start=1):
        if len(whole) > LONGEST_LINE:
            raise RecipeError(
                f"This line has {len(whole)} characters; the limit is {LONGEST_LINE}. Use a shorter line.",
                Span(whole, whole, number),
            )
        line = without_comment(Span(whole, whole, number))
        if not line.text:
            continue
        if pin := _pin(line):
            if pin[0] in pins:
                raise RecipeError(f"{pin[0]} is pinned twice. Remove one of the pins.", line)
            pins[pin[0]] = pin[1]
        elif _is_variable(line):
            _variable(line, variables, notes)
        elif mbw_each.is_command(line):
            lines.append(_each_line(line, len(lines)))
        else:
            lines.append(_merge_line(line, len(lines)))
    if not lines:
        end = Span("", "", len(text.splitlines()) + 1)
        raise RecipeError("The recipe has no merge line such as `out = A + B, 0.5`.", end)
    return Recipe(tuple(lines), tuple(variables.items()), tuple(notes.items()), tuple(pins.items()))


def to_text(recipe: Recipe) -> str:
    """The recipe as text that ``parse`` reads back equal."""
    lines = [f"{name} = {quoted(file)}" for name, file in recipe.variables]
    lines += [f"{name}, {note}" for name, note in recipe.notes]
    lines += [_line_text(line) for line in recipe.lines]
    lines += [f"pin {_pinned(name)} = {digest}" for name, digest in recipe.pins]
    return "\n".join(lines) + "\n"


def check_portable(recipe: Recipe) -> None:
    """MergeError unless the recipe, written as text, is read back equal: a file that carries it can be replayed."""
    try:
        problem = (
            "" if parse(to_text(recipe)) == recipe else "A name or text in it has a line break or bracket."
        )
    except RecipeError as error:
        problem = error.problem
    if problem:
        raise MergeError(f"This merge cannot be written into a file as a recipe. {problem}")


def _pin(line: Span) -> tuple[str, str] | None:
    """Name and sha256 of a line ``pin NAME = SHA256``; None for other lines."""
    if not line.text.startswith("pin") or not line.text[3:4].isspace():
        return None
    head, equals, digest = line.text[3:].rpartition("=")
    name, digest = head.strip(), digest.strip()
    if not equals or not name or not _DIGEST.fullmatch(digest):
        return None
    return Span(name, name, 0).unquoted(), digest.lower()


def _pinned(name: str) -> str:
    """The name of a pin: that of a file, or ``lora(NAME)``."""
    rest = name.removeprefix(LORA)
    return name if rest != name and quoted(rest) == rest else quoted(name)


def _is_variable(line: Span) -> bool:
    """Whether a line binds or describes ``__NAME__``; with models added it is a merge of that name."""
    name = line.cut(",")[0].cut("=")[0].text
    if not VARIABLE.match(name) and not LINE_REFERENCE.match(name):
        return False
    _, right = line.cut("=")
    return right is None or not right.split(",")[0].find("+")


def _variable(line: Span, variables: dict[str, str], notes: dict[str, str]) -> None:
    head, note = line.cut(",")
    name, file = head.cut("=")
    if file is not None and file.text:
        if LINE_REFERENCE.match(name.text):
            raise RecipeError(
                f"{name.text} is the result of a line and cannot be bound to a file. Use another name.", name
            )
        if name.text in variables:
            raise RecipeError(f"{name.text} is bound twice. Remove one of the lines.", name)
        variables[name.text] = file.unquoted()
    if note is not None and note.text:
        if name.text in notes:
            raise RecipeError(f"{name.text} has two notes. Remove one of the lines.", name)
        notes[name.text] = note.text


def _merge_line(line: Span, earlier: int) -> Line:
    head, *items = line.split(",")
    output, formula = head.cut("=")
    if formula is None:
        raise RecipeError("Expected `output = A + B, ratio`.", line)
    if not output.text:
        raise RecipeError("The result has no name. Write one before the =.", output)
    terms = formula.split(" + " if formula.find(" + ") else "+")
    models: list[str] = []
    loras: list[LoraTerm] = []
    for term in terms:
        if not term.text:
            raise RecipeError("A model name is missing.", term)
        if is_lora(term):
            loras.append(read_lora(term))
        else:
            check_reference(term, earlier)
            models.append(term.unquoted())
    if not models:
        raise RecipeError(
            "A LoRA is added to a model. Write one, as in `out = A + lora(name, 0.8)`.", formula
        )
    return read_line(output.unquoted(), tuple(models), tuple(loras), items, line, formula, earlier)


def _each_line(line: Span, earlier: int) -> Line:
    command = mbw_each.read(line, earlier)
    for name in (command.model_a, command.model_b):
        check_reference(Span(name, line.whole, line.line, line.start), earlier)
    ratios = (("m_a", command.m_a), ("m_b", command.m_b))
    return Line(command.output, (command.model_a, command.model_b), "each", ratios)


def _line_text(line: Line) -> str:
    terms = [*map(quoted, line.models), *map(lora_text, line.loras)]
    items = [f"{quoted(line.output)} = {' + '.join(terms)}"]
    added = bool(line.loras) and len(line.models) == 1 and (line.method, line.ratios) == ADDED
    for name, text in () if added else line.ratios:
        if name == "alpha" and is_number(text):
            items.append(text)
        else:
            items.append(f"{name}={text}" if re.fullmatch(r"[\w.+*/-]+", text) else f"{name}=[{text}]")
    items += [f"{name}={value!r}" for name, value in line.options]
    items += [] if added else [f"method={line.method}"]
    items += [f"elemental={always_quoted(line.elemental)}"] if line.elemental else []
    items += [f"vae={quoted(line.vae)}"] if line.vae else []
    items += [f"seed={line.seed}"] if line.seed else []
    items += [
        f"{name}={getattr(line, name)}" for name, known in CHOICES.items() if getattr(line, name) != known[0]
    ]
    return ", ".join(items)
