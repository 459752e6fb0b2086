"""The example workflows: their prompts in API form, and the files that they are drawn to for the template browser.

A template is shown under its file's name: its number in ``notes/files.json``, and the heading of its note. That file also
says what App mode shows of the templates that open in it; their names end in ``.app``.
"""

import json
from pathlib import Path
from typing import Any

from . import layout

EXAMPLES = layout.ROOT / "example_workflows"


def names() -> list[str]:
    """The names of all example workflows, in the order of their numbers."""
    numbers = {path.stem: _files()[path.stem]["number"] for path in (EXAMPLES / "api").glob("*.json")}
    return sorted(numbers, key=lambda name: (numbers[name], name))


def prompt(name: str) -> dict[str, Any]:
    """An example workflow in API form."""
    return json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))


def note(name: str) -> str:
    """The Markdown note of an example workflow."""
    return (EXAMPLES / "notes" / f"{name}.md").read_text(encoding="utf-8").strip()


def title(name: str) -> str:
    """Number and heading of an example workflow, as texts name it."""
    return f"{_files()[name]['number']:02} {note(name).splitlines()[0].removeprefix('# ')}"


def drawn(name: str, suffix: str = ".json") -> Path:
    """Where an example workflow is drawn to, or with the suffix ``.jpg`` its thumbnail."""
    return EXAMPLES / f"{title(name)}{'.app' if app(name) else ''}{suffix}"


def app(name: str) -> dict[str, list] | None:
    """The inputs (node id, widget) and output nodes that App mode shows; None for other workflows."""
    return _files()[name].get("app")


def _files() -> dict[str, Any]:
    return json.loads((EXAMPLES / "notes" / "files.json").read_text(encoding="utf-8"))
