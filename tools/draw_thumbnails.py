"""Makes the thumbnails of the template browser, beside the drawn workflows in example_workflows/.

A workflow that runs on the demo models is run, and its images are the thumbnail; of others the graph on the real canvas
is. Names as arguments limit it to those workflows; without any, those that have no thumbnail yet are made.
"""

import io
import json
import math
import sys

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from refhost import layout, templates
from refhost.browser import ARGUMENTS, chromium
from refhost.canvas import Canvas
from refhost.client import Client
from refhost.server import Server

SIDE, MARGIN, PIXELS, QUALITY = 1400, 40, 640, 80
DEMO = {"BlockworkAtelierLoader", "BlockworkAtelierStages"}
PAPER = (38, 40, 46)
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
    canvas.load(json.loads(templates.drawn(name).read_text(encoding="utf-8")))
    canvas.page.evaluate(FIT, [SIDE, MARGIN])
    canvas.settle(20)
    picture = canvas.page.screenshot(clip={"x": 0, "y": 0, "width": SIDE, "height": SIDE})
    return jpeg(
        Image.open(io.BytesIO(picture)).convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    )


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def runs_on_demo_models(name: str) -> bool:
    """Whether a workflow loads the demo models and no other."""
    kinds = {node["class_type"] for node in templates.prompt(name).values()}
    return bool(kinds & DEMO) and not kinds & {
        "CheckpointLoaderSimple",
        "UNETLoader",
        "BlockworkCascadeStageLoader",
    }


def result(server: Server, name: str) -> bytes:
    """A square JPEG of the images that a workflow saves, in rows."""
    client, prompt = Client(server.url), templates.prompt(name)
    entry = client.run(prompt, timeout=1800)
    saving = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    shown = [
        Image.open(io.BytesIO(data)).convert("RGB") for key in saving for data in client.images(entry, key)
    ]
    across = math.ceil(math.sqrt(len(shown)))
    down = -(-len(shown) // across)
    room = PIXELS // across
    sheet = Image.new("RGB", (PIXELS, PIXELS), PAPER)
    for number, image in enumerate(shown):
        scale = min((room - 8) / image.width, (room - 8) / image.height)
        size = round(image.width * scale), round(image.height * scale)
        filter_ = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        row, column = divmod(number, across)
        left = column * room + (room - size[0]) // 2
        top = (PIXELS - down * room) // 2 + row * room + (room - size[1]) // 2
        sheet.paste(image.resize(size, filter_), (left, top))
    return jpeg(sheet)


def stand_ins(server: Server, names: list[str]) -> None:
    """Empty files for every model and picture that the workflows name, so that none is drawn as missing."""
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
    names = sys.argv[1:] or [name for name in templates.names() if not templates.drawn(name, ".jpg").exists()]
    run = [name for name in names if runs_on_demo_models(name)]
    with Server(layout.HOST / "thumbnails") as server:
        for name in run:
            templates.drawn(name, ".jpg").write_bytes(result(server, name))
            print(name, flush=True)
        names = [name for name in names if name not in run]
        if not names:
            return 0
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(chromium()), args=list(ARGUMENTS))
            stand_ins(server, names)
            canvas = bare_canvas(browser, server)
            for name in names:
                templates.drawn(name, ".jpg").write_bytes(take(canvas, name))
                print(name, flush=True)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
