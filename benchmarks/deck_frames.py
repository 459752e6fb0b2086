"""Frame time of 25 block decks against 25 stock nodes with 25 number widgets each, in the real front-end.

The canvas is panned one step per frame, with the frame-rate limit off; both graphs take turns on one page.
Prints ``renderer, zoom: ours ms, stock ms, ratio`` (medians of frames).
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
NODES, ROUNDS, FRAMES = 25, 5, 60
TYPES = {"ours": "DeckTestWeights", "stock": "DeckTestFloats"}
FILL = """([type, count]) => { app.graph.clear();
  for (let n = 0; n < count; n++) { const node = LiteGraph.createNode(type);
    node.pos = [460 * (n % 5), 800 * Math.floor(n / 5)]; app.graph.add(node); } }"""
PAN = """([frames, scale]) => new Promise((done) => { const times = []; let last = 0; const ds = app.canvas.ds;
  ds.scale = scale; ds.offset = [40, 40];
  const step = (now) => { if (last) times.push(now - last); last = now;
    ds.offset = [40 - (times.length % 20) * 4, 40 - (times.length % 20) * 2]; app.canvas.setDirty(true, true);
    times.length < frames ? requestAnimationFrame(step) : done(times); };
  requestAnimationFrame(step); })"""


def measure(canvas: Canvas, scale: float) -> dict[str, float]:
    """Median milliseconds per frame of both graphs, which take turns."""
    frames: dict[str, list[float]] = {side: [] for side in TYPES}
    for _ in range(ROUNDS):
        for side, node_type in TYPES.items():
            canvas.page.evaluate(FILL, [node_type, NODES])
            canvas.settle(30)
            frames[side] += canvas.page.evaluate(PAN, [FRAMES, scale])
    return {side: statistics.median(times) for side, times in frames.items()}


def main() -> None:
    packs = {"deck_test": ROOT / "tests" / "browser" / "pack"}
    with Server(layout.HOST / "bench-deck", packs=packs) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=[*ARGUMENTS, *UNLIMITED])
        for nodes2 in (False, True):
            canvas = Canvas(browser, server.url, nodes2=nodes2).open()
            for scale in (1.0, 0.22):
                took = measure(canvas, scale)
                name = f"{'Nodes 2.0' if nodes2 else 'classic canvas'}, zoom {scale:.0%}"
                ratio = took["ours"] / took["stock"]
                print(f"{name}: ours {took['ours']:.1f} ms, stock {took['stock']:.1f} ms, ratio {ratio:.2f}")
            canvas.close()
        browser.close()


if __name__ == "__main__":
    main()
