"""Runs the demo templates of the articles and saves their sheets, docs/images/articles/NAME.jpg, for docs/articles.md; the block
sweep also for docs/block_sweep.md and the help page of Block Sweep.

Names as arguments limit it to those templates; without any, all are run.
"""

import io
import json
import sys

from PIL import Image
from refhost import layout
from refhost.client import Client
from refhost.server import Server

API = layout.ROOT / "example_workflows" / "api"
IMAGES = layout.ROOT / "docs" / "images" / "articles"
WIDEST, QUALITY = 1000, 82
SWEEP = "article_003_demo_blocks"
SWEEP_PAGES = (
    layout.ROOT / "docs" / "images" / "block_sweep.jpg",
    layout.ROOT / "web" / "docs" / "pictures" / "block_sweep.jpg",
)


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
                if image.width > WIDEST:
                    size = (WIDEST, round(image.height * WIDEST / image.width))
                    image = image.resize(size, Image.Resampling.LANCZOS)
                for path in SWEEP_PAGES if name == SWEEP else (IMAGES / f"{name}.jpg",):
                    image.save(path, quality=QUALITY, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
