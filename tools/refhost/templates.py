"""The example workflows: their prompts in API form, and the files that they are drawn to for the template browser.

A template is shown under its file's name. ``notes/files.json`` gives some of them a readable one, and says what App mode
shows of those that end in ``.app``.
"""

import json
from pathlib import Path
from typing import Any

from . import layout

EXAMPLES = layout.ROOT / "example_workflows"


def names() -> list[str]:
    """The names of all example workflows, in order."""
    return sorted(path.stem for path in (EXAMPLES / "api").glob("*.json"))


def prompt(name: str) -> dict[str, Any]:
    """An example workflow in API form."""
    return json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))


def drawn(name: str, suffix: str = ".json") -> Path:
    """Where an example workflow is drawn to, or with the suffix ``.jpg`` its thumbnail."""
    return EXAMPLES / f"{_files().get(name, {}).get('file', name)}{suffix}"


def app(name: str) -> dict[str, list] | None:
    """The inputs (node id, widget) and output nodes that App mode shows; None for other workflows."""
    return _files().get(name, {}).get("app")


def _files() -> dict[str, Any]:
    return json.loads((EXAMPLES / "notes" / "files.json").read_text(encoding="utf-8"))
