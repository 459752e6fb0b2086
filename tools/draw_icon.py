"""Draws `docs/pictures/icon.png` (400 x 400) and `banner.png` (21:9): block weights in the shape of the U."""

import math
from pathlib import Path

from PIL import Image, ImageDraw
from refhost.pack import load_pack

load_pack()

from blockwork.blocks.drawing import HIGH, INK, LOW, PAPER, font  # noqa: E402  # pyright: ignore[reportMissingImports]

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
ROWS = 6


def u_shape(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
    """Bars down the left, one below, bars up the right; their lengths and colours follow a wave."""
    left, top, right, bottom = box
    row = (bottom - top) / (ROWS + 1)
    width = (right - left) * 0.42
    places = [(left, i) for i in range(ROWS)] + [(left + (right - left) * 0.29, ROWS)]
    places += [(right - width, ROWS - 1 - i) for i in range(ROWS)]
    for number, (x, line) in enumerate(places):
        share = 0.5 + 0.45 * math.cos(number * 2 * math.pi / (len(places) - 1))
        colour = tuple(round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True))
        y = top + line * row
        draw.rounded_rectangle((x, y, x + width, y + row * 0.7), row * 0.2, fill=(226, 227, 229))
        draw.rounded_rectangle((x, y, x + width * max(share, 0.12), y + row * 0.7), row * 0.2, fill=colour)


def main() -> None:
    icon = Image.new("RGB", (400, 400), PAPER)
    u_shape(ImageDraw.Draw(icon), (50, 62, 350, 350))
    icon.save(PICTURES / "icon.png", optimize=True)
    banner = Image.new("RGB", (1260, 540), PAPER)
    draw = ImageDraw.Draw(banner)
    u_shape(draw, (80, 90, 480, 470))
    draw.text((570, 170), "Blockwork", fill=INK, font=font(110))
    draw.text((574, 310), "Diffusion models, block by block", fill=INK, font=font(38))
    banner.save(PICTURES / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
