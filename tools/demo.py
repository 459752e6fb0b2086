"""`make demo`: what the pack does, on a real ComfyUI and the tiny models that come with it, as one contact sheet.

Sets up the reference host, queues the demo models' example workflows through the API and leaves their pictures and
``contact_sheet.png`` in ``demo_output/``. Nothing but the repository is needed; no GPU.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from refhost import install, layout
from refhost.client import Client, Prompt, PromptFailed, PromptRefused
from refhost.server import Server

OUTPUT = layout.ROOT / "demo_output"
EXAMPLES = layout.ROOT / "example_workflows" / "api"
# Example workflow, title of its row, a word above each of its pictures; the nodes that show them, where not all do.
ROWS = (
    ("atelier_merge", "Merge:\na style into the base", ("base", "50 % ink", "70 %", "85 %", "ink")),
    ("atelier_block_prompts", "Block prompts:\nanother prompt in\nchosen blocks", ("A: red circle", "object from B", "colour from B", "B: blue star")),
    ("atelier_deprojector", "Deprojector:\nembeddings back\ninto prompts", ("orange ring", "deprojected", "star + red", "cross + black")),
    ("atelier_words", "XTI: learnt words,\none vector a block", ("gem", "tile", "tile in the middle")),
    ("atelier_cascade", "Pixel cascade,\nguidance 7:\n16, then 64 pixels", ("no threshold, 16", "64", "dynamic, 16", "64")),
)  # fmt: skip
SHOWN = {"atelier_cascade": ("preview_without", "save_without", "preview_dynamic", "save_dynamic")}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that ComfyUI is stopped as well
    try:
        install.ensure()
        sheet = paint()
    except (layout.HostError, PromptFailed, PromptRefused) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        log = layout.DEMO_BASE / "comfyui.log"
        print(f"demo failed: {error!r}\nComfyUI went away while working; its log is {log}.", file=sys.stderr)
        return 1
    print(f"Done. Look at:\n  {sheet}\nand at the single pictures beside it.")
    return 0


def paint() -> Path:
    """Queue every row and lay the pictures out; the path of the sheet."""
    print("starting ComfyUI and painting (about a minute on two cores)", flush=True)
    started = time.monotonic()
    rows = []
    with Server(layout.DEMO_BASE, arguments=("--cpu",)) as server:
        client = Client(server.url)
        for name, title, words in ROWS:
            entry = client.run(read(name))
            pictures = [
                path
                for node in SHOWN.get(name, (None,))
                for path in client.save_images(entry, OUTPUT, f"{name}-{node}" if node else name, node)
            ]
            rows.append({"title": title, "words": words, "pictures": [path.name for path in pictures]})
            print(f"  {name}: {time.monotonic() - started:.0f} s", flush=True)
    (OUTPUT / "contact_sheet.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    command = [str(layout.venv_bin("python")), str(layout.ROOT / "tools" / "contact_sheet.py"), str(OUTPUT)]
    laid = subprocess.run(command, capture_output=True, text=True, check=False)
    if laid.returncode:
        raise layout.HostError(
            f"the pictures are in {OUTPUT}, but laying them out failed:\n{laid.stderr.strip()}"
        )
    return OUTPUT / "contact_sheet.png"


def read(name: str) -> Prompt:
    """An example workflow in API form."""
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())
