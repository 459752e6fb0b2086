"""Takes the images of the help pages, web/docs/pictures/NODE_ID.jpg: the node in an example, on the real canvas.

The page names the example ("in the example TITLE"). Of nodes that show a result the example is run first, with the demo models
in place of its own. Node ids as arguments limit it to those, ``--all`` takes all; without any, those that have no image yet.
"""

import io
import json
import re
import sys
from pathlib import Path

import stand_ins
from draw_thumbnails import prompt_of
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from refhost import layout, templates
from refhost.browser import ARGUMENTS, chromium
from refhost.canvas import Canvas
from refhost.client import Client
from refhost.graphs import draw
from refhost.server import Server

SHOW_A_RESULT = {
    f"Blockwork{name}"
    for name in (
        "CompareFiles",
        "CompareModels",
        "DeprojectorReport",
        "FindRecipe",
        "ImageSheet",
        "InjectionPlan",
        "LoRAReport",
        "SaturationReport",
        "XTIDensity",
    )
}
SHOWN_BY_ANOTHER = {
    "BlockworkGrowthGrid",
    "BlockworkInjectBlockPrompts",
    "BlockworkSearchLoop",
    "BlockworkSplitBlockPrompt",
}
DOCS = layout.ROOT / "web" / "docs"
PICTURES = DOCS / "pictures"
SIDE, MARGIN, WIDTH, HEIGHT, QUALITY = 1400, 44, 560, 640, 66
QUIET = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.Canvas.ShowRulers": False}


def example_of(node_id: str) -> str:
    """The example workflow that the node's page names; empty where there is none."""
    titles = {templates.title(name): name for name in templates.names()}
    page = (DOCS / f"{node_id}.md").read_text(encoding="utf-8")
    named = re.search(rf"in the example ([^\]]+)\]\(pictures/{node_id}\.jpg\)", page)
    return titles[named[1]] if named else ""


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


def empty_files(server: Server, names: list[str]) -> None:
    """Empty files for every model and image that the workflows name, so that none is drawn as missing."""
    folders = Client(server.url).get("/models")
    for name in names:
        for value in [
            v
            for node in templates.prompt(name).values()
            for v in node["inputs"].values()
            if isinstance(v, str)
        ]:
            places = []
            if value.endswith(".safetensors") and len(value) < 80:
                places = [server.base / "models" / folder / value for folder in folders]
            elif value.endswith((".png", ".jpg")):
                places = [server.base / "input" / value]
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.touch()


def bare_canvas(browser: Browser, server: Server) -> Canvas:
    """The front-end in Nodes 2.0 with nothing but the graph in the window."""
    canvas = Canvas(browser, server.url, nodes2=True, size=(SIDE, SIDE), settings=QUIET).open()
    canvas.page.evaluate("() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    canvas.page.add_style_tag(
        content="#comfyui-body-top, .comfyui-body-top, [data-testid='subgraph-breadcrumb'], .p-toast,"
        " .graph-canvas-panel > *, button:not([data-node-id] button), .actionbar-container, .workflow-tabs-container { display: none !important }"
    )
    return canvas


def main() -> int:
    pages = [page.stem for page in sorted(DOCS.glob("*.md")) if page.stem not in SHOWN_BY_ANOTHER]
    names = sys.argv[1:] or [name for name in pages if not picture_of(name).exists()]
    names = pages if names == ["--all"] else names
    examples = {name: example_of(name) for name in names}
    PICTURES.mkdir(exist_ok=True)
    with Server(layout.HOST / "thumbnails") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=list(ARGUMENTS))
        results = sorted(SHOW_A_RESULT & set(names))
        if results:
            stand_ins.make_files(server)
        empty_files(server, sorted(set(examples.values()) - {""}))
        canvas = bare_canvas(browser, server)
        schemas = Client(server.url).get("/object_info")
        for name, example in sorted(examples.items(), key=lambda pair: (pair[0] not in results, pair[1])):
            canvas.clear()
            if name in results:
                canvas.load(draw(example, prompt_of(example), schemas))
                canvas.queue(timeout=1800, button=False)  # focus mode hides the button
                canvas.settle(30)
            elif example:
                canvas.load(json.loads(templates.drawn(example).read_text(encoding="utf-8")))
            else:
                canvas.add(name)
            picture_of(name).write_bytes(take(canvas, name))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
