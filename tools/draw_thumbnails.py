"""Takes the pictures of the template browser, example_workflows/NAME.jpg, from the workflows on the real canvas.

Names as arguments limit it to those workflows; without any, those that have no picture yet are taken.
"""

import io
import json
import sys

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from refhost import layout
from refhost.browser import ARGUMENTS, chromium
from refhost.canvas import Canvas
from refhost.client import Client
from refhost.server import Server

EXAMPLES = layout.ROOT / "example_workflows"
SIDE, MARGIN, PIXELS, QUALITY = 1400, 40, 640, 80
QUIET = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.Canvas.ShowRulers": False}
FIT = """([side, margin]) => { const boxes = app.graph.nodes.map((node) => node.boundingRect ?? node.getBounding());
  const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
  const width = Math.max(...boxes.map((b) => b[0] + b[2])) - left, height = Math.max(...boxes.map((b) => b[1] + b[3])) - top;
  const scale = Math.min((side - 2 * margin) / width, (side - 2 * margin) / height, 1);
  const place = (room, size, start) => (room / scale - size) / 2 - start;
  app.canvas.ds.scale = scale; app.canvas.ds.offset = [place(side, width, left), place(side, height, top)];
  app.canvas.setDirty(true, true); }"""


def take(canvas: Canvas, name: str) -> bytes:
    """A square JPEG of a workflow, fitted."""
    canvas.load(json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8")))
    canvas.page.evaluate(FIT, [SIDE, MARGIN])
    canvas.settle(20)
    picture = canvas.page.screenshot(clip={"x": 0, "y": 0, "width": SIDE, "height": SIDE})
    small = Image.open(io.BytesIO(picture)).convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def stand_ins(server: Server, names: list[str]) -> None:
    """Empty files for every model and picture that the workflows name, so that none is drawn as missing."""
    folders = Client(server.url).get("/models")
    for name in names:
        prompt = json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))
        for value in [v for node in prompt.values() for v in node["inputs"].values() if isinstance(v, str)]:
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
    names = sys.argv[1:] or [
        path.stem for path in sorted(EXAMPLES.glob("*.json")) if not path.with_suffix(".jpg").exists()
    ]
    with Server(layout.HOST / "thumbnails") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=list(ARGUMENTS))
        stand_ins(server, names)
        canvas = bare_canvas(browser, server)
        for name in names:
            (EXAMPLES / f"{name}.jpg").write_bytes(take(canvas, name))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
