"""Frame time of 30 block decks against 30 stock nodes, in the real front-end.

The stock nodes: one with 25 number fields, as many as a deck has bars; CLIPTextEncode, which has a DOM widget; and
KSampler, which has none and is only reported. The canvas is panned one step per frame, with the frame-rate limit
off; the graphs take turns on one page. Prints medians of frames, and the ratios to the first two, for renderer and
zoom: the classic canvas at 80 %, Nodes 2.0 at 40 %, both at 100 %. ``--decks`` measures decks of 60 blocks as well,
against nodes with 60 number fields.
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from playwright.sync_api import sync_playwright
from refhost import layout
from refhost.browser import ARGUMENTS, chromium
from refhost.canvas import Canvas
from refhost.server import Server

UNLIMITED = ("--disable-frame-rate-limit", "--disable-gpu-vsync")
NODES, ROUNDS, FRAMES = 30, 4, 40
TYPES = {
    "ours": "DeckTestWeights",
    "fields": "DeckTestFloats",
    "texts": "CLIPTextEncode",
    "samplers": "KSampler",
}
ZOOMS = {False: (0.8, 1.0), True: (0.4, 1.0)}
FILL = """([type, count, layout]) => { app.graph.clear();
  for (let n = 0; n < count; n++) { const node = LiteGraph.createNode(type);
    if (layout && type.startsWith('DeckTestWeights')) { node.properties['Blockwork layout'] = layout; node.widgets.at(-1).value = '0.5'; }
    node.pos = [460 * (n % 6), 800 * Math.floor(n / 6)]; app.graph.add(node); } }"""
PAN = """([frames, scale]) => new Promise((done) => { const times = []; let last = 0; const ds = app.canvas.ds;
  ds.scale = scale; ds.offset = [40, 40];
  const step = (now) => { if (last) times.push(now - last); last = now;
    ds.offset = [40 - (times.length % 20) * 4, 40 - (times.length % 20) * 2]; app.canvas.setDirty(true, true);
    times.length < frames ? requestAnimationFrame(step) : done(times); };
  requestAnimationFrame(step); })"""


def measure(canvas: Canvas, scale: float, block_layout: str = "") -> dict[str, float]:
    """Median milliseconds per frame of the graphs, which take turns."""
    frames: dict[str, list[float]] = {side: [] for side in TYPES}
    for _ in range(ROUNDS):
        for side, node_type in {**TYPES, **({"fields": "DeckTestFloats60"} if block_layout else {})}.items():
            canvas.page.evaluate(FILL, [node_type, NODES, block_layout])
            canvas.settle(20)
            frames[side] += canvas.page.evaluate(PAN, [FRAMES, scale])
    return {side: statistics.median(times) for side, times in frames.items()}


def main() -> None:
    packs = {"deck_test": ROOT / "tests" / "browser" / "pack"}
    with Server(layout.HOST / "bench-deck", packs=packs) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=[*ARGUMENTS, *UNLIMITED])
        for nodes2 in (False, True):
            canvas = Canvas(browser, server.url, nodes2=nodes2).open()
            for scale in ZOOMS[nodes2]:
                for block_layout in ("", "qwen_image") if "--decks" in sys.argv else ("",):
                    took = measure(canvas, scale, block_layout)
                    name = f"{'Nodes 2.0' if nodes2 else 'classic canvas'}, zoom {scale:.0%}{', 60 blocks' if block_layout else ''}"
                    times = ", ".join(f"{side} {ms:.1f} ms" for side, ms in took.items())
                    fields, texts = took["ours"] / took["fields"], took["ours"] / took["texts"]
                    print(f"{name}: {times}; ratio to fields {fields:.2f}, to texts {texts:.2f}", flush=True)
            canvas.close()
        browser.close()


if __name__ == "__main__":
    main()
