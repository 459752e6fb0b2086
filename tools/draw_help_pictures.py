"""Takes the pictures of the help pages, web/docs/pictures/NODE_ID.jpg: the node in an example, on the real canvas.

Node ids as arguments limit it to those; without any, those that have no picture yet are taken.
"""

import io
import json
import sys
from pathlib import Path

from draw_thumbnails import bare_canvas, stand_ins
from PIL import Image
from playwright.sync_api import sync_playwright
from refhost import layout, templates
from refhost.browser import ARGUMENTS, chromium
from refhost.canvas import Canvas
from refhost.server import Server

DOCS = layout.ROOT / "web" / "docs"
PICTURES = DOCS / "pictures"
MARGIN, WIDTH, HEIGHT, QUALITY = 44, 560, 640, 66


def example_of(node_id: str) -> str:
    """The first drawn example workflow with the node; empty where there is none."""
    for name in templates.names():
        drawn = templates.drawn(name).exists()
        if drawn and any(node["class_type"] == node_id for node in templates.prompt(name).values()):
            return name
    return ""


def take(canvas: Canvas, node_id: str) -> bytes:
    """The first node of the type in the open graph with its surroundings, as a JPEG."""
    [node, *_] = [str(node["id"]) for node in canvas.save()["nodes"] if node["type"] == node_id]
    canvas.look_at(node)
    box = canvas.page.locator(f'[data-node-id="{node}"]').bounding_box()
    assert box
    left, top = max(0, box["x"] - MARGIN), max(0, box["y"] - MARGIN)
    clip = {"x": left, "y": top, "width": box["width"] + 2 * MARGIN, "height": box["height"] + 2 * MARGIN}
    shown = Image.open(io.BytesIO(canvas.page.screenshot(clip=clip))).convert("RGB")  # pyright: ignore[reportArgumentType]
    shown.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return buffer.getvalue()


def picture_of(node_id: str) -> Path:
    return PICTURES / f"{node_id}.jpg"


def main() -> int:
    names = sys.argv[1:] or [
        page.stem for page in sorted(DOCS.glob("*.md")) if not picture_of(page.stem).exists()
    ]
    examples = {name: example_of(name) for name in names}
    PICTURES.mkdir(exist_ok=True)
    with Server(layout.HOST / "thumbnails") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=list(ARGUMENTS))
        stand_ins(server, sorted(set(examples.values()) - {""}))
        canvas = bare_canvas(browser, server)
        for name, example in sorted(examples.items(), key=lambda pair: pair[1]):
            canvas.clear()
            if example:
                canvas.load(json.loads(templates.drawn(example).read_text(encoding="utf-8")))
            else:
                canvas.add(name)
            picture_of(name).write_bytes(take(canvas, name))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
