"""Cutting a recipe line into parts while remembering where each part was."""

from dataclasses import dataclass

from ..errors import MergeError

SHOWN = 200  # characters of a long line in an error
LORA = "lora("  # opens a bracket where a term of a formula starts


class RecipeError(MergeError):
    """A recipe that cannot be read: ``line`` and ``column`` count from 1, the message shows the place.

    Line 0 is a text that is not a recipe, such as a node's field.
    """

    def __init__(self, problem: str, source: "Span"):
        self.problem, self.line, self.column = problem, source.line, source.column
        where = f"Recipe line {source.line}, column {source.column}: " if source.line else ""
        begin = max(0, source.start - SHOWN // 2) if len(source.whole) > SHOWN else 0
        shown, pointer = source.whole[begin : begin + SHOWN], " " * (source.start - begin) + "^"
        super().__init__(f"{where}{problem}\n{shown}\n{pointer}" if shown else f"{where}{problem}")


@dataclass(frozen=True)
class Span:
    """A part of a line: its text, and where it is."""

    text: str
    whole: str
    line: int
    start: int = 0

    @property
    def column(self) -> int:
        return self.start + 1

    def strip(self) -> "Span":
        """Without the spaces around it."""
        left = len(self.text) - len(self.text.lstrip())
        return Span(self.text.strip(), self.whole, self.line, self.start + left)

    def part(self, start: int, stop: int | None = None) -> "Span":
        """The characters [start, stop) of this span."""
        return Span(self.text[start:stop], self.whole, self.line, self.start + start)

    def split(self, separator: str) -> list["Span"]:
        """Parts between separators outside quotes and brackets, stripped."""
        parts, begin = [], 0
        for place in self.find(separator):
            parts.append(self.part(begin, place).strip())
            begin = place + len(separator)
        return [*parts, self.part(begin).strip()]

    def cut(self, separator: str) -> tuple["Span", "Span | None"]:
        """The parts before and after the first separator; None when there is none."""
        places = self.find(separator)
        if not places:
            return self.strip(), None
        return self.part(0, places[0]).strip(), self.part(places[0] + len(separator)).strip()

    def find(self, separator: str) -> list[int]:
        """Where the separator is outside quotes and brackets.

        A quote opens only at the start of a part, a bracket only after "=" or ",", and ``lora(`` only at the start or after "=" or
        "+", so that names such as ``model [81761151]``, ``5" mix`` or ``my model (v2)`` stay plain text.
        """
        places, index, seen, text = (
            [],
            0,
            0,
            self.text,
        )  # seen: the end of what is before, without its last spaces
        while index < len(text):
            begin, letter = index, text[index]
            if letter == '"' and (
                seen == 0 or text[seen - 1] in ",=+" or (seen == 3 and text.startswith("pin"))
            ):
                index = self._closing(index, '"')
            elif letter == "[" and seen and text[seen - 1] in "=,":
                index = self._closing(index, "]")
            elif text.startswith(LORA, index) and (not seen or text[seen - 1] in "=+"):
                index = self.closing(index)
            elif text.startswith(separator, index):
                places.append(index)
                index += len(separator) - 1
            index += 1
            if passed := text[begin:index].rstrip():
                seen = begin + len(passed)
        return places

    def closing(self, start: int) -> int:
        """Where the bracket closes that the first ``(`` from ``start`` on opens; quotes and [] inside are skipped."""
        text, depth, index, before = self.text, 0, self.text.index("(", start), ""
        while index < len(text):
            letter = text[index]
            if letter == '"' and before in ("(", ",", "="):
                index = self._closing(index, '"')
            elif letter == "[" and before in (",", "="):
                index = self._closing(index, "]")
            elif letter in "()":
                depth += 1 if letter == "(" else -1
                if not depth:
                    return index
            before = text[index] if not text[index].isspace() else before
            index += 1
        raise RecipeError("There is no closing ).", self.part(start))

    def shown(self) -> str:
        """The text between quotes for a message, shortened."""
        return repr(self.text if len(self.text) <= 100 else f"{self.text[:97]}...")

    def _closing(self, start: int, mark: str) -> int:
        index = start + 1
        while index < len(self.text):
            if self.text[index] == "\\" and mark == '"':
                index += 1
            elif self.text[index] == mark:
                return index
            index += 1
        raise RecipeError(f"There is no closing {mark}.", self.part(start))

    def unquoted(self) -> str:
        """The text without its quotes or brackets, if it has any."""
        text = self.text
        if len(text) >= 2 and text[0] == text[-1] == '"':
            return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        if len(text) >= 2 and text[0] == "[" and text[-1] == "]":
            return text[1:-1].strip()
        return text


def without_comment(line: Span) -> Span:
    """The line up to its first ``#`` outside quotes, stripped."""
    places = line.find("#")
    return line.part(0, places[0]).strip() if places else line.strip()


def quoted(name: str) -> str:
    """The name as a recipe writes it: quoted when its characters mean something in the grammar."""
    plain = name and name == name.strip() and not any(mark in name for mark in ',="#+[]\\')
    if plain and not name.startswith(("_", LORA)):
        return name
    if plain and name.startswith("__") and name.endswith("__"):
        return name
    return always_quoted(name)


def always_quoted(text: str) -> str:
    """The text between quotes, on one line."""
    return '"' + " ".join(text.splitlines()).replace("\\", "\\\\").replace('"', '\\"') + '"'
