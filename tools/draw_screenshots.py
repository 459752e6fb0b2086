"""Takes the screenshots of docs/pictures: the deck in both palettes, and the walk of the README. The browser tests take them as they run."""

import subprocess
import sys

from PIL import Image
from refhost import layout

TAKEN = layout.HOST / "screenshots"
PICTURES = layout.ROOT / "docs" / "pictures"
TESTS = (
    "tests/browser/test_deck_access.py::test_contrast_in_every_palette",
    "tests/browser/test_walk.py::test_from_the_template_browser_to_a_merged_image",
)
WALK = ("walk-1-templates", "walk-2-workflow", "walk-3-weights", "walk-4-picture")
DECK = (104, 66, 564, 836)  # where the node is in a screenshot of its test
WIDTH, QUALITY = 1200, 80


def main() -> int:
    tests = [str(layout.ROOT / test) for test in TESTS]
    if subprocess.run([layout.venv_bin("pytest"), "-q", *tests], cwd=layout.ROOT, check=False).returncode:
        return 1
    both = Image.new("RGB", (2 * (DECK[2] - DECK[0]), DECK[3] - DECK[1]))
    for column, palette in enumerate(("dark", "light")):
        newest = max(TAKEN.glob(f"palette-{palette}-*-classic.png"), key=lambda path: path.stat().st_mtime)
        both.paste(Image.open(newest).convert("RGB").crop(DECK), (column * both.width // 2, 0))
    both.save(PICTURES / "deck.jpg", quality=QUALITY, optimize=True)
    for name in WALK:
        image = Image.open(TAKEN / f"{name}.png").convert("RGB")
        image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        image.save(PICTURES / f"{name}.jpg", quality=QUALITY, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
