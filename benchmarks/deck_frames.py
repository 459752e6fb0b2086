"""Frame time of 30 block decks against 30 stock nodes, in the real front-end.

The stock nodes: one with 25 number fields, as many as a deck has bars; CLIPTextEncode, which has a DOM widget; and
KSampler, which has none and is only reported. The canvas is panned one step per frame, with the frame-rate limit
off; the graphs take turns on one page. Prints medians of frames and the browser's CPU time per frame (where other
programs run, only that can be compared), and the ratios to the first two, for renderer and zoom: the classic canvas at
80 %, Nodes 2.0 at 40 %, both at 100 %. ``--decks`` measures decks of 60 blocks as well, against nodes with 60 number
fields; ``--front-end 1.58.1`` takes another release. Linux only: CPU times are read from /proc.
"""

import os
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from playwright.sync_api import sync_playwright
from refhost import layout
from refhost.browser import ARGUMENTS, chromium, frontend
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


def cpu() -> float:
    """CPU milliseconds that the programs started from here have taken."""
    parents, spent = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            _, _, fields = (folder / "stat").read_text().rpartition(") ")
        except OSError:
            continue  # it has ended meanwhile
        parent, times = int(fields.split()[1]), fields.split()[11:13]
        parents[int(folder.name)] = parent
        spent[int(folder.name)] = sum(map(int, times)) * 1000 / os.sysconf("SC_CLK_TCK")

    def ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return sum(ms for process, ms in spent.items() if process != os.getpid() and ours(process))


def measure(canvas: Canvas, scale: float, block_layout: str = "") -> dict[str, tuple[float, float]]:
    """Median milliseconds per frame, and CPU milliseconds per frame, of the graphs, which take turns."""
    frames: dict[str, list[float]] = {side: [] for side in TYPES}
    spent: dict[str, list[float]] = {side: [] for side in TYPES}
    for _ in range(ROUNDS):
        for side, node_type in {**TYPES, **({"fields": "DeckTestFloats60"} if block_layout else {})}.items():
            canvas.page.evaluate(FILL, [node_type, NODES, block_layout])
            canvas.settle(20)
            before = cpu()
            times = canvas.page.evaluate(PAN, [FRAMES, scale])
            spent[side].append((cpu() - before) / len(times))
            frames[side] += times
    return {side: (statistics.median(frames[side]), statistics.median(spent[side])) for side in TYPES}


def report(name: str, took: dict[str, tuple[float, float]]) -> str:
    """One line: frames and CPU of each graph, and the ratios of both."""
    times = ", ".join(f"{side} {frame:.1f} ms ({cpu:.1f})" for side, (frame, cpu) in took.items())
    ratios = [
        f"to {side} {took['ours'][0] / took[side][0]:.2f} ({took['ours'][1] / took[side][1]:.2f})"
        for side in ("fields", "texts")
    ]
    return f"{name}: frame (CPU) {times}; ratio {', '.join(ratios)}"


def main() -> None:
    packs = {"deck_test": ROOT / "tests" / "browser" / "pack"}
    version = sys.argv[sys.argv.index("--front-end") + 1] if "--front-end" in sys.argv else ""
    root = ("--front-end-root", str(frontend(version))) if version else ()
    server = Server(layout.HOST / "bench-deck", arguments=("--cpu", *root), packs=packs)
    with server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=[*ARGUMENTS, *UNLIMITED])
        for nodes2 in (False, True):
            canvas = Canvas(browser, server.url, nodes2=nodes2).open()
            for scale in ZOOMS[nodes2]:
                for block_layout in ("", "qwen_image") if "--decks" in sys.argv else ("",):
                    took = measure(canvas, scale, block_layout)
                    face = "Nodes 2.0" if nodes2 else "classic canvas"
                    print(
                        report(f"{face}, zoom {scale:.0%}{', 60 blocks' if block_layout else ''}", took),
                        flush=True,
                    )
            canvas.close()
        browser.close()


if __name__ == "__main__":
    main()
