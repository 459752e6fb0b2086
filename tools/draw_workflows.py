"""Lays the example workflows out for the canvas: example_workflows/api/NAME.json -> example_workflows/NUMBER HEADING.json.

``--check`` writes nothing and fails when a file is missing or out of date. The schemas come from a running
ComfyUI, which is started for it. The note of a workflow is example_workflows/notes/NAME.md, which begins with the heading;
notes/files.json holds the number, notes/models.json url and directory of the released model files that the workflows name.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from refhost import layout, templates
from refhost.client import Client
from refhost.graphs import draw
from refhost.server import Server

NOTES = templates.EXAMPLES / "notes"


def drawings(schemas: dict[str, Any]) -> dict[Path, str]:
    """What the drawn files should hold, by path."""
    found = {}
    models = json.loads((NOTES / "models.json").read_text(encoding="utf-8"))
    for name in templates.names():
        prompt, note = templates.prompt(name), templates.note(name)
        workflow = draw(name, prompt, schemas, note, models, templates.app(name))
        found[templates.drawn(name)] = json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
    return found


def stale(wanted: dict[Path, str]) -> list[str]:
    """Names of drawn files that are missing, out of date, or without a source."""
    present = set(templates.EXAMPLES.glob("*.json")) | set(wanted)
    return sorted(
        path.name
        for path in present
        if not path.exists() or path not in wanted or path.read_text(encoding="utf-8") != wanted[path]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file is out of date")
    options = parser.parse_args()
    with Server(layout.HOST / "draw") as server:
        wanted = drawings(Client(server.url).get("/object_info"))
    if options.check:
        old = stale(wanted)
        if old:
            print(f"out of date: {', '.join(old)}; run tools/draw_workflows.py", file=sys.stderr)
        return bool(old)
    for path in set(templates.EXAMPLES.glob("*.json")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
