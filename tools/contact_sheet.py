"""Lays the demo's images out on one sheet: ``contact_sheet.py FOLDER [COPY.jpg]`` reads ``<row>-<n>.png`` and writes one PNG."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from demo_models import pages

CELL = 128


def main() -> None:
    folder = Path(sys.argv[1])
    rows = json.loads((folder / "contact_sheet.json").read_text(encoding="utf-8"))
    sheets = []
    for row in rows:
        pictures = [_read(folder / name) for name in row["pictures"]]
        sheets.append(pages.grid([pictures], row["words"], [row["title"]], cell=CELL, margin=190))
    sheet = pages.stack(sheets)
    sheet.save(folder / "contact_sheet.png", optimize=True)
    for copy in sys.argv[2:]:
        sheet.convert("RGB").save(copy, quality=85, optimize=True)


def _read(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255)


if __name__ == "__main__":
    main()
