"""What a study leaves behind: grids of pictures, charts of bars and lines, tables in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, FAINT = (255, 255, 255), (30, 30, 34), (208, 208, 214)
SERIES = ((36, 92, 204), (226, 106, 24), (40, 150, 90), (160, 60, 180), (120, 120, 120), (200, 170, 30))


def font(size: int = 15) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def grid(
    rows: Sequence[Sequence[Tensor] | Tensor],
    columns: Sequence[str],
    titles: Sequence[str],
    cell: int = 96,
    margin: int = 150,
) -> Image.Image:
    """Pictures ``h w 3`` in rows, with a title left of every row and a word above every column."""
    top = 26 if any(columns) else 6
    width = margin + len(rows[0]) * (cell + 6) + 6
    sheet = Image.new("RGB", (width, top + len(rows) * (cell + 6) + 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, name in enumerate(columns):
        pen.text((margin + number * (cell + 6) + cell // 2, top // 2), name, INK, font(13), anchor="mm")
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        y = top + number * (cell + 6)
        pen.multiline_text((8, y + cell // 2), title, INK, font(14), anchor="lm", spacing=3)
        for place, picture in enumerate(row):
            sheet.paste(image(picture, cell), (margin + place * (cell + 6), y))
    return sheet


def image(picture: Tensor, side: int) -> Image.Image:
    """A picture ``h w 3`` in 0..1, enlarged to ``side``."""
    pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height + 8 for s in sheets)), PAPER)
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height + 8
    return whole


def bars(
    names: Sequence[str], series: Mapping[str, Sequence[float]], title: str, top: float = 1.0
) -> Image.Image:
    """Grouped bars from 0 to ``top``."""
    slot = max(26, 9 * len(series) + 8)
    left, height, foot = 54, 190, 62
    sheet = Image.new("RGB", (left + slot * len(names) + 20, 40 + height + foot), PAPER)
    pen = ImageDraw.Draw(sheet)
    _frame(pen, sheet.width, left, height, title, top)
    for number, name in enumerate(names):
        x = left + number * slot + 4
        for place, values in enumerate(series.values()):
            tall = max(0.0, min(values[number] / top, 1.0)) * height
            pen.rectangle((x + 9 * place, 34 + height - tall, x + 9 * place + 7, 34 + height), SERIES[place])
        label = Image.new("RGB", (54, 14), PAPER)
        ImageDraw.Draw(label).text((53, 7), name, INK, font(12), anchor="rm")
        sheet.paste(label.rotate(90, expand=True), (x + slot // 2 - 10, 38 + height))
    _legend(pen, list(series), left, sheet.height - 14)
    return sheet


def lines(
    x: Sequence[float], series: Mapping[str, Sequence[float]], title: str, axis: str, top: float = 1.0
) -> Image.Image:
    """Curves over ``x``, evenly spaced by index, from 0 to ``top``."""
    left, height, width = 54, 190, 460
    sheet = Image.new("RGB", (left + width + 24, 40 + height + 56), PAPER)
    pen = ImageDraw.Draw(sheet)
    _frame(pen, sheet.width, left, height, title, top)
    spots = [left + 12 + i * (width - 24) / max(len(x) - 1, 1) for i in range(len(x))]
    for spot, value in zip(spots, x, strict=True):
        pen.text((spot, 44 + height), f"{value:g}", INK, font(12), anchor="mm")
    pen.text((left + width, 44 + height), axis, INK, font(12), anchor="lm")
    for place, values in enumerate(series.values()):
        points = [
            (spot, 34 + height - max(0.0, min(value / top, 1.0)) * height)
            for spot, value in zip(spots, values, strict=True)
        ]
        pen.line(points, SERIES[place % len(SERIES)], 3)
        for px, py in points:
            pen.ellipse((px - 3, py - 3, px + 3, py + 3), SERIES[place % len(SERIES)])
    _legend(pen, list(series), left, sheet.height - 14)
    return sheet


def _frame(pen: ImageDraw.ImageDraw, width: int, left: int, height: int, title: str, top: float) -> None:
    pen.text((left, 14), title, INK, font(15), anchor="lm")
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = 34 + height - share * height
        pen.line((left, y, width - 12, y), FAINT)
        pen.text((left - 6, y), f"{share * top:.2f}", INK, font(12), anchor="rm")


def _legend(pen: ImageDraw.ImageDraw, names: Sequence[str], x: float, y: float) -> None:
    for place, name in enumerate(names):
        pen.rectangle((x, y - 5, x + 10, y + 5), SERIES[place % len(SERIES)])
        pen.text((x + 15, y), name, INK, font(13), anchor="lm")
        x += 30 + pen.textlength(name, font(13))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with three digits."""
    said = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *said]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(folder: Path, name: str, text: str, pictures: Mapping[str, Image.Image]) -> None:
    """``<name>.md`` and its pictures (JPEG, or PNG for charts by their suffix)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, picture in pictures.items():
        picture.save(folder / file, quality=88, optimize=True)
    (folder / f"{name}.md").write_text(text.strip() + "\n", encoding="utf-8")


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score."""
    z = 1.96
    middle = (hits + z * z / 2) / (count + z * z)
    reach = z / (count + z * z) * (hits * (count - hits) / count + z * z / 4) ** 0.5
    return middle - reach, middle + reach


def share(hits: int, count: int) -> str:
    """A share with its 95 % interval, as text."""
    low, high = wilson(hits, count)
    return f"{hits / count:.2f} ({low:.2f}-{high:.2f})"
