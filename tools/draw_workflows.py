"""Lays the example workflows out for the canvas: example_workflows/api/NAME.json -> example_workflows/NAME.json.

``--check`` writes nothing and fails when a file is missing or out of date. The schemas come from a running
ComfyUI, which is started for it. The note of a workflow is example_workflows/notes/NAME.md; notes/models.json holds
url and directory of the released model files that the workflows name.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from refhost import layout
from refhost.client import Client
from refhost.graphs import draw
from refhost.server import Server

EXAMPLES = layout.ROOT / "example_workflows"


def drawings(schemas: dict[str, Any], folder: Path = EXAMPLES) -> dict[Path, str]:
    """What the drawn files should hold, by path."""
    found = {}
    notes = folder / "notes"
    models = json.loads((notes / "models.json").read_text(encoding="utf-8"))
    for source in sorted((folder / "api").glob("*.json")):
        prompt = json.loads(source.read_text(encoding="utf-8"))
        note = (notes / f"{source.stem}.md").read_text(encoding="utf-8").strip()
        workflow = draw(source.stem, prompt, schemas, note, models)
        found[folder / source.name] = json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
    return found


def stale(wanted: dict[Path, str], folder: Path = EXAMPLES) -> list[str]:
    """Names of drawn files that are missing, out of date, or without a source."""
    present = set(folder.glob("*.json")) | set(wanted)
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
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
