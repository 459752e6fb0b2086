"""Runs the demo templates of the articles and saves their sheets, docs/images/articles/NAME.jpg, for docs/articles.md; the block
sweep also for docs/block_sweep.md and the help page of Block Sweep.

Names as arguments limit it to those templates; without any, all are run.
"""

import io
import json
import sys
from pathlib import Path

from PIL import Image
from refhost import layout
from refhost.client import Client
from refhost.server import Server

API = layout.ROOT / "example_workflows" / "api"
IMAGES = layout.ROOT / "docs" / "images" / "articles"
WIDEST, WIDEST_IN_HELP, QUALITY = 1000, 560, 82
SWEEP = "article_003_demo_blocks"
SWEEP_PAGES = (
    layout.ROOT / "docs" / "images" / "block_sweep.jpg",
    layout.ROOT / "web" / "docs" / "pictures" / "block_sweep.jpg",
)


def save(image: Image.Image, path: Path, widest: int) -> None:
    """A JPEG of at most that width."""
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
    image.save(path, quality=QUALITY, optimize=True)


def main() -> int:
    names = sys.argv[1:] or [
        path.stem
        for path in sorted(API.glob("article_*_demo*.json"))
        if path.stem != "article_004_demo_rating"  # a page, not an image
    ]
    IMAGES.mkdir(parents=True, exist_ok=True)
    with Server(layout.HOST / "draw") as server:
        client = Client(server.url)
        for name in names:
            prompt = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
            entry = client.run(prompt, timeout=7200)
            for data in client.images(entry)[:1]:
                image = Image.open(io.BytesIO(data)).convert("RGB")
                if name == SWEEP:
                    save(image, SWEEP_PAGES[0], WIDEST)
                    save(image, SWEEP_PAGES[1], WIDEST_IN_HELP)
                else:
                    save(image, IMAGES / f"{name}.jpg", WIDEST)
    return 0


if __name__ == "__main__":
    sys.exit(main())
