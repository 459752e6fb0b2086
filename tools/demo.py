"""`make demo`: what the pack does, on a real ComfyUI and the tiny models that come with it, as one contact sheet.

Sets up the reference host, queues the demo models' example workflows through the API and leaves their images and
``contact_sheet.png`` in ``demo_output/``. Nothing but the repository is needed; no GPU. ``--docs`` stores the sheet as
docs/pictures/contact_sheet.jpg as well.
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
IN_DOCS = layout.ROOT / "docs" / "pictures" / "contact_sheet.jpg"
EXAMPLES = layout.ROOT / "example_workflows" / "api"
# Example workflow, title of its row, a word above each of its images; the nodes that show them, where not all do.
ROWS = (
    ("demo_merge", "Merge:\na style into the base", ("base", "50 % ink", "70 %", "85 %", "ink")),
    ("demo_block_prompts", "Block prompts:\nanother prompt in\nchosen blocks", ("A: red circle", "object from B", "colour from B", "B: blue star")),
    ("demo_deprojector", "Deprojector:\nembeddings back\ninto prompts", ("orange ring", "deprojected", "star + red", "cross + black")),
    ("demo_words", "XTI: learned words,\none vector a block", ("gem", "tile", "tile in the middle")),
    ("article_004_demo_style", "Stage II:\nanother style by\nits prompt alone", ("same prompt", "a mosaic of ...", "a crayon drawing of ...")),
    ("demo_cascade", "Pixel cascade,\nguidance 12:\n16, then 64 pixels", ("no threshold, 16", "64", "static, 16", "64", "dynamic, 16", "64")),
)  # fmt: skip
SHOWN = {
    "article_004_demo_style": ("32",),
    "demo_cascade": (
        "preview_without",
        "save_without",
        "preview_static",
        "save_static",
        "preview_dynamic",
        "save_dynamic",
    ),
}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that ComfyUI is stopped as well
    try:
        install.ensure()
        sheet = render()
    except (layout.HostError, PromptFailed, PromptRefused) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        log = layout.DEMO_BASE / "comfyui.log"
        print(f"demo failed: {error!r}\nComfyUI stopped; its log is {log}.", file=sys.stderr)
        return 1
    print(f"Done. Look at:\n  {sheet}\nand at the single images beside it.")
    return 0


def render() -> Path:
    """Queue every row and lay the images out; the path of the sheet."""
    print("starting ComfyUI and rendering (about a minute on two cores)", flush=True)
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
    command += [str(IN_DOCS)] if "--docs" in sys.argv[1:] else []
    laid = subprocess.run(command, capture_output=True, text=True, check=False)
    if laid.returncode:
        raise layout.HostError(
            f"the images are in {OUTPUT}, but laying them out failed:\n{laid.stderr.strip()}"
        )
    return OUTPUT / "contact_sheet.png"


def read(name: str) -> Prompt:
    """An example workflow in API form."""
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())
