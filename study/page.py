"""A sweep as one HTML file that needs no server: the images in the shape of the model, their distances, a slide compare."""

import html
import json
from collections.abc import Sequence

import numpy as np

from .image import UNIT_COSINE, UNIT_RMS, Moves, cell_places, mean
from .sweep import Cell, Sweep
from .view import data_url

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 1.5em; color: #20242c; background: #fafaf7 }}
h1 {{ font-size: 1.3em }} .bar label {{ margin-right: 1.5em }}
#blocks {{ display: grid; gap: 12px 24px; justify-content: start; margin: 1em 0; --size: 128px }}
.cell {{ margin: 0 0 6px }} .cell p {{ margin: 0; white-space: nowrap }} .cell b {{ font-weight: 600 }}
.moved {{ height: 4px; margin: 2px 0; background: #d9d9d2 }} .moved i {{ display: block; height: 100%; background: #de7842 }}
.images {{ display: flex; gap: 3px }} .images img {{ width: var(--size); cursor: zoom-in }}
table {{ border-collapse: collapse }} th, td {{ padding: 2px 12px; text-align: right }} td:first-child {{ text-align: left }}
dialog {{ border: 0; padding: 12px; max-width: 96vw; background: #fafaf7 }} dialog::backdrop {{ background: #000b }}
.stage {{ display: inline-block }} .pair {{ position: relative; line-height: 0 }} .pair img {{ max-width: 90vw; max-height: 78vh; min-width: min(512px, 80vw) }}
.pair img + img {{ position: absolute; left: 0; top: 0; clip-path: inset(0 0 0 var(--cut)) }}
.stage input {{ width: 100%; margin: 8px 0 0 }} dialog p {{ margin: .4em 0 }}
</style></head><body><h1>{title}</h1>
<p class="bar"><label>Image size <input id="size" type="range" min="48" max="512" value="128"></label>
Click an image to compare it with the unmodified one. The bars show the {unit}.</p>
<div id="blocks">
{cells}
</div>
<h2>Distances</h2>
{table}
<dialog id="one"><p><b id="name"></b></p>
<div class="stage"><div class="pair"><img id="before" alt="unmodified"><img id="after" alt=""></div>
<input id="cut" type="range" min="0" max="100" value="50" aria-label="left of the line: unmodified, right of it: the block"></div>
<p>Left of the line: unmodified. Right of it: the block. Arrow keys: left and right show other cells, up and down move
the line, Escape closes.</p></dialog>
<script>
const CELLS = {data};
const node = (id) => document.getElementById(id);
const dialog = node("one");
const images = [...document.querySelectorAll(".cell")].map((cell) => [...cell.querySelectorAll("img")]);
let cell = 0, seed = 0;
const show = () => {{
  node("name").textContent = CELLS[cell].label + ", image " + (seed + 1) + CELLS[cell].text[seed];
  node("before").src = images[0][seed].src;
  node("after").src = images[cell][seed].src;
  node("after").alt = CELLS[cell].label;
}};
const cut = () => node("after").style.setProperty("--cut", node("cut").value + "%");
node("cut").addEventListener("input", cut);
node("size").addEventListener("input", () => node("blocks").style.setProperty("--size", node("size").value + "px"));
images.forEach((row, place) => row.forEach((image, number) => image.addEventListener("click", () => {{
  cell = place; seed = number; show(); cut(); dialog.showModal();
}})));
document.addEventListener("keydown", (event) => {{
  const step = {{ ArrowLeft: -1, ArrowRight: 1 }}[event.key];
  if (!dialog.open || !step) return;
  cell = (cell + step + images.length) % images.length;
  event.preventDefault();
  show();
}});
</script></body></html>
"""

CELL = """<div class="cell"><p><b>{label}</b></p><div class="moved"><i style="width: {share:.1f}%"></i></div>
<div class="images">{images}</div></div>"""


def sweep_page(sweep: Sweep, pictures: Sequence[np.ndarray], moves: Sequence[Moves], title: str = "") -> str:
    """HTML of a sweep with all its images; ``pictures`` are uint8 ``n h w 3`` per cell, ``moves`` as ``measure`` gives them."""
    moved = {move.cell: move for move in moves}
    far = max((mean(move.rms) for move in moves), default=0.0) or 1.0
    cells = "\n".join(
        f'<div style="grid-column: {column + 1}; grid-row: {row + 1}">'
        + "\n".join(
            _cell(cell, pictures[number], moved.get(cell), far)
            for number, cell in enumerate(sweep.cells)
            if cell.block == block
        )
        + "</div>"
        for block, (column, row) in cell_places(sweep).items()
    )
    facts = [{"label": cell.label, "text": _texts(moved.get(cell), len(pictures[0]))} for cell in sweep.cells]
    return PAGE.format(
        title=html.escape(title or "Block sweep"),
        unit=UNIT_RMS,
        cells=cells,
        table=_table(moves),
        data=json.dumps(facts).replace("<", "\\u003c"),  # no text can end the script
    )


def _cell(cell: Cell, pictures: np.ndarray, move: Moves | None, far: float) -> str:
    images = "".join(
        f'<img alt="{html.escape(cell.label)}" src="{data_url(picture)}">' for picture in pictures
    )
    share = 100 * mean(move.rms) / far if move else 0.0
    return CELL.format(label=html.escape(cell.label), share=share, images=images)


def _texts(move: Moves | None, count: int) -> list[str]:
    """What the dialog says behind the name, image by image."""
    if move is None:
        return [""] * count
    cosine = move.cosine or [None] * count
    return [
        f": {UNIT_RMS} {rms:.2f}" + ("" if apart is None else f"; {UNIT_COSINE} {apart:.4f}")
        for rms, apart in zip(move.rms, cosine, strict=True)
    ]


def _table(moves: Sequence[Moves]) -> str:
    embedded = all(move.cosine is not None for move in moves)
    units = [UNIT_RMS, *([UNIT_COSINE] if embedded else [])]
    rows = [f"<tr><th></th>{''.join(f'<th>{unit}</th>' for unit in units)}</tr>"]
    for move in sorted(moves, key=lambda move: -mean(move.rms)):
        cosine = f"<td>{mean(move.cosine):.4f}</td>" if embedded and move.cosine is not None else ""
        rows.append(f"<tr><td>{html.escape(move.cell.label)}</td><td>{mean(move.rms):.2f}</td>{cosine}</tr>")
    return f"<table>{''.join(rows)}</table>"
