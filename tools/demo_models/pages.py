"""What a study leaves behind: grids of images, charts of bars and lines with intervals, tables in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, FAINT = (255, 255, 255), (30, 30, 34), (216, 216, 222)
# Colours that are told apart without red and green (Okabe and Ito), each with its own mark.
SERIES = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (90, 90, 90),
)
LEFT, RIGHT, TOP, HEIGHT, LEGEND = 76, 22, 40, 220, 22
Interval = tuple[float, float]


def font(size: int = 15) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def grid(
    rows: Sequence[Sequence[Tensor] | Tensor],
    columns: Sequence[str],
    titles: Sequence[str],
    cell: int = 96,
    margin: int = 150,
) -> Image.Image:
    """Images ``h w 3`` in rows, with a title left of every row and a word above every column."""
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
    """An image ``h w 3`` in 0..1, enlarged to ``side``."""
    pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height + 12 for s in sheets)), PAPER)
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height + 12
    return whole


def bars(
    names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    title: str,
    axis: str = "share of images",
    top: float = 1.0,
    intervals: Mapping[str, Sequence[Interval]] | None = None,
) -> Image.Image:
    """Grouped bars from 0 to ``top`` over named groups, with the interval of each bar where it is given."""
    wide = 12
    slot = max(30, (wide + 2) * len(series) + 12)
    foot = 16 + max(int(font(12).getlength(name)) for name in names)
    sheet, pen = _frame(slot * len(names), foot, title, "", axis, 0.0, top, list(series))
    for number, name in enumerate(names):
        x = LEFT + number * slot + (slot - (wide + 2) * len(series)) // 2
        for place, (of, values) in enumerate(series.items()):
            left = x + place * (wide + 2)
            pen.rectangle(
                (left, _y(values[number], 0, top), left + wide, TOP + HEIGHT), SERIES[place % len(SERIES)]
            )
            if intervals:
                _whisker(pen, left + wide // 2, intervals[of][number], 0, top)
        label = Image.new("RGB", (foot - 12, 15), PAPER)
        ImageDraw.Draw(label).text((foot - 13, 7), name, INK, font(12), anchor="rm")
        sheet.paste(label.rotate(90, expand=True), (LEFT + number * slot + slot // 2 - 8, TOP + HEIGHT + 6))
    return sheet


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    title: str,
    below: str,
    axis: str = "share of images",
    top: float = 1.0,
    bottom: float = 0.0,
    intervals: Mapping[str, Sequence[Interval]] | None = None,
) -> Image.Image:
    """Curves over ``x``, evenly spaced by index, with the interval of each point where it is given."""
    width = max(440, 56 * len(x))
    sheet, pen = _frame(width, 24, title, below, axis, bottom, top, list(series))
    spots = [LEFT + 24 + i * (width - 48) / max(len(x) - 1, 1) for i in range(len(x))]
    for spot, value in zip(spots, x, strict=True):
        pen.text((spot, TOP + HEIGHT + 14), f"{value:g}", INK, font(12), anchor="mm")
    middle = (len(series) - 1) / 2
    for place, (of, values) in enumerate(series.items()):
        colour = SERIES[place % len(SERIES)]
        shift = (place - middle) * 4 if intervals else 0  # so that intervals do not cover each other
        points = [(spot + shift, _y(value, bottom, top)) for spot, value in zip(spots, values, strict=True)]
        if len(points) > 1:
            pen.line(points, colour, 2)
        for number, (px, py) in enumerate(points):
            if intervals:
                _whisker(pen, px, intervals[of][number], bottom, top, colour)
            _mark(pen, px, py, place)
    return sheet


def scatter(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    below: str,
    axis: str,
    labels: Sequence[str] = (),
    bottom: float = 0.0,
    top: float = 1.0,
    decimals: int = 2,
) -> Image.Image:
    """Curves of points ``(x, y)`` in order, each point with its label beside it."""
    xs = [x for points in curves.values() for x, _ in points]
    low, high = min(xs), max(xs) + 1e-9
    width = 560
    sheet, pen = _frame(width, 24, title, below, axis, bottom, top, list(curves))
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = LEFT + 24 + share * (width - 48)
        pen.text(
            (at, TOP + HEIGHT + 14), f"{low + share * (high - low):.{decimals}f}", INK, font(12), anchor="mm"
        )
    for place, points in enumerate(curves.values()):
        colour = SERIES[place % len(SERIES)]
        spots = [(LEFT + 24 + (x - low) / (high - low) * (width - 48), _y(y, bottom, top)) for x, y in points]
        if len(spots) > 1:
            pen.line(spots, colour, 2)
        for number, (px, py) in enumerate(spots):
            _mark(pen, px, py, place)
            if number < len(labels):
                pen.text((px + 6, py - 7), labels[number], colour, font(11), anchor="lm")
    return sheet


def _frame(
    width: int, foot: int, title: str, below: str, axis: str, bottom: float, top: float, names: list[str]
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """The empty chart: title, grid, axis labels, and the legend below everything else in as many lines as it needs."""
    width = max(width, 200)
    lines, x = [[]], 0.0
    for number, name in enumerate(names):
        length = 30 + font(13).getlength(name)
        if x and x + length > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, number, name))
        x += length
    under = TOP + HEIGHT + foot + (20 if below else 4)
    total = max(LEFT + width + RIGHT, LEFT + int(font(15).getlength(title)) + RIGHT)
    sheet = Image.new("RGB", (total, under + LEGEND * len(lines) + 6), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((LEFT, 18), title, INK, font(15), anchor="lm")
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = TOP + HEIGHT - share * HEIGHT
        pen.line((LEFT, y, LEFT + width, y), FAINT)
        pen.text((LEFT - 6, y), f"{bottom + share * (top - bottom):.2f}", INK, font(12), anchor="rm")
    if below:
        pen.text((LEFT + width / 2, under - 10), below, INK, font(13), anchor="mm")
    label = Image.new("RGB", (int(font(13).getlength(axis)) + 4, 17), PAPER)
    ImageDraw.Draw(label).text((2, 8), axis, INK, font(13), anchor="lm")
    label = label.rotate(90, expand=True)
    sheet.paste(label, (8, max(0, TOP + HEIGHT // 2 - label.height // 2)))
    for row, line in enumerate(lines):
        for at, number, name in line:
            y = under + LEGEND * row + LEGEND // 2
            _mark(pen, LEFT + at + 6, y, number)
            pen.text((LEFT + at + 16, y), name, INK, font(13), anchor="lm")
    return sheet, pen


def _y(value: float, bottom: float, top: float) -> float:
    share = (value - bottom) / (top - bottom)
    return TOP + HEIGHT - max(0.0, min(share, 1.0)) * HEIGHT


def _whisker(
    pen: ImageDraw.ImageDraw,
    x: float,
    ends: Interval,
    bottom: float,
    top: float,
    colour: tuple[int, int, int] = INK,
) -> None:
    low, high = (_y(value, bottom, top) for value in ends)
    pen.line((x, low, x, high), colour, 1)
    for y in (low, high):
        pen.line((x - 3, y, x + 3, y), colour, 1)


def _mark(pen: ImageDraw.ImageDraw, x: float, y: float, place: int) -> None:
    """Each series its own: circle, square, triangle, diamond, ring, cross, bar."""
    colour = SERIES[place % len(SERIES)]
    kind = place % 7
    if kind == 0:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
    elif kind == 1:
        pen.rectangle((x - 4, y - 4, x + 4, y + 4), colour)
    elif kind == 2:
        pen.polygon([(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)], colour)
    elif kind == 3:
        pen.polygon([(x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y)], colour)
    elif kind == 4:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), PAPER, colour, 2)
    elif kind == 5:
        pen.line((x - 4, y - 4, x + 4, y + 4), colour, 3)
        pen.line((x - 4, y + 4, x + 4, y - 4), colour, 3)
    else:
        pen.rectangle((x - 5, y - 2, x + 5, y + 2), colour)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with three digits."""
    said = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *said]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(folder: Path, name: str, text: str, pictures: Mapping[str, Image.Image]) -> None:
    """``<name>.md`` and its images (JPEG, or PNG for charts by their suffix)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, picture in pictures.items():
        picture.save(folder / file, quality=88, optimize=True)
    (folder / f"{name}.md").write_text(text.strip() + "\n", encoding="utf-8")


def wilson(hits: int, count: int) -> Interval:
    """The 95 % interval of a share, by Wilson's score."""
    z = 1.96
    middle = (hits + z * z / 2) / (count + z * z)
    reach = z / (count + z * z) * (hits * (count - hits) / count + z * z / 4) ** 0.5
    return middle - reach, middle + reach


def share(hits: int, count: int) -> str:
    """A share with its 95 % interval, as text."""
    low, high = wilson(hits, count)
    return f"{hits / count:.2f} ({low:.2f}-{high:.2f})"


def resampled(values: Tensor, seed: int = 0, times: int = 1000) -> Interval:
    """The 95 % interval of the mean of ``values`` (``n``), one per prompt, by resampling the prompts."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (times, len(values)), generator=generator)
    low, high = (
        values.double()[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    )
    return low, high


def mean(values: Tensor) -> str:
    """The mean of ``values`` (``n``), one per prompt, with its 95 % interval, as text."""
    low, high = resampled(values)
    return f"{float(values.double().mean()):.2f} ({low:.2f}-{high:.2f})"


def verdict(claim: str, holds: bool | None, figures: str) -> str:
    """What a study says of a claim: whether it holds, by the rule that the study fixed before it ran."""
    said = {
        True: "It holds on the demo models.",
        False: "It does not hold on the demo models.",
        None: "Undecided.",
    }
    return f"**Claim:** {claim}\n**Verdict:** {said[holds]} {figures}"


def apart(lower: Interval, higher: Interval) -> bool | None:
    """Whether one interval is wholly below another (True), wholly above (False), or neither (None)."""
    if lower[1] < higher[0]:
        return True
    return False if higher[1] < lower[0] else None
