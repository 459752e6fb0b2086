"""Draws scenes as images by signed distances, with smooth edges; the same scene always gives the same image.

Every style of ``world.STYLES`` has the same mean in each of the 16 x 16 cells of an image: the styles differ in what is
finer than a cell. No pixel of theirs reaches the ends of the range. The styles of the fine-tunes (``world.TUNED``) change
the colours too.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .world import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, TUNED, UNITS, Scene

SIDE = 128  # pixels of an image
SMALL = 64  # pixels of an image for the classifier, the image encoder and stage II of the cascade
CELLS = 16  # pixels of an image of stage I
REACH = 0.78  # no colour lies beyond, of -1..1, before the grain of a style
GRAIN = 0.2
CHUNK = 2**19  # pixels drawn together
LIGHT = (-0.6, -0.8)
INK = (-0.78, -0.81, -0.72)
PAPER = (0.78, 0.68, 0.47)
NIGHT = (-0.9, -0.88, -0.72)


def draw(scene: Scene, side: int = SIDE) -> Tensor:
    """The image of ``scene``, ``3 side side`` in 0..1."""
    return draw_all([scene], side)[0]


@torch.no_grad()
def draw_all(scenes: Sequence[Scene], side: int = SIDE) -> Tensor:
    """The images of ``scenes``, ``n 3 side side`` in 0..1; ``side`` is a multiple of 16."""
    order = sorted(range(len(scenes)), key=lambda i: scenes[i].style)
    out = torch.empty(len(scenes), 3, side, side)
    at, size = 0, max(1, CHUNK // side**2)
    while at < len(order):
        style = scenes[order[at]].style
        chunk = [i for i in order[at : at + size] if scenes[i].style == style]
        out[chunk] = _drawn([scenes[i] for i in chunk], style, side).add_(1).mul_(0.5)
        at += len(chunk)
    return out


def _drawn(scenes: list[Scene], style: str, side: int) -> Tensor:
    unit = UNITS / side
    middle = (torch.arange(side) + 0.5) * unit - UNITS / 2
    x, y = middle.view(1, 1, -1), middle.view(1, -1, 1)
    canvas = _background(scenes, style, x, y, unit)
    for slot in range(max(len(scene.things) for scene in scenes)):
        chosen = [i for i, scene in enumerate(scenes) if len(scene.things) > slot]
        if len(chosen) == len(scenes):
            canvas = _placed(canvas, [scene.things[slot] for scene in scenes], style, x, y, unit)
        else:
            canvas[chosen] = _placed(
                canvas[chosen], [scenes[i].things[slot] for i in chosen], style, x, y, unit
            )
    if style in TUNED:
        return canvas.clamp_(-1, 1)
    canvas.clamp_(-REACH, REACH)
    if style == "mosaic":
        cell = torch.nn.functional.avg_pool2d(canvas, side // CELLS)
        return cell.repeat_interleave(side // CELLS, -1).repeat_interleave(side // CELLS, -2) + _tiles(side)
    if style == "hatched":
        return canvas + _hatching(side)
    if style == "crayon":
        return canvas + torch.stack([_strokes(side, scene.seed) for scene in scenes])[:, None]
    return canvas


def _background(scenes: list[Scene], style: str, x: Tensor, y: Tensor, unit: float) -> Tensor:
    colours = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes])[:, :, None, None]
    turn = torch.tensor([scene.seed % 360 * math.pi / 180 for scene in scenes])[:, None, None]
    slope = (turn.cos() * x + turn.sin() * y) * (0.05 / UNITS * math.sqrt(2))
    canvas = colours + slope[:, None]
    if style == "ink":  # a pale wash of the background on hatched paper
        hatch = 0.3 * _soft(((x + y) % 8 - 4).abs() - 0.7, unit)
        canvas = 0.35 * canvas + 0.65 * _colour(PAPER)
        return canvas + hatch[:, None] * (_colour(INK) - canvas)
    if style == "night":
        return 0.25 * canvas + 0.75 * _colour(NIGHT)
    return canvas


def _placed(canvas: Tensor, things: list, style: str, x: Tensor, y: Tensor, unit: float) -> Tensor:
    numbers = torch.tensor([[t.turn, t.x, t.y, SIZES[t.size] * t.scale] for t in things])
    turn, left, top, radius = numbers[:, :, None, None].unbind(1)
    dx, dy = x - left, y - top
    u, v = turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx
    distance, bevel = torch.empty_like(u), torch.empty_like(radius)
    pattern = torch.zeros_like(u)
    for shape in SHAPES:
        chosen = [i for i, thing in enumerate(things) if thing.shape == shape]
        if chosen:
            distance[chosen] = _distance(shape, u[chosen], v[chosen], radius[chosen])
            bevel[chosen] = radius[chosen] * {"circle": 1.0, "ring": 0.26}.get(shape, 0.36)
    for texture in TEXTURES[1:]:
        chosen = [i for i, thing in enumerate(things) if thing.texture == texture]
        if chosen:
            pattern[chosen] = _pattern(texture, u[chosen], v[chosen], unit)
    colour = torch.tensor([COLOURS[thing.colour] for thing in things])[:, :, None, None]
    light = 0.2 * colour + 0.8 * 0.74
    fill = colour + pattern[:, None] * (light - colour)
    inside = _soft(distance, unit)[:, None]
    if style == "ink":
        line = _soft(distance.abs() - 1.5, unit)[:, None]
        canvas = canvas + inside * (fill - canvas)
        return canvas + line * (_colour(INK) - canvas)
    if style == "night":  # a glow around, a bright rim, the inside darker
        glow = 0.75 * torch.exp(-distance.clamp(min=0) / 5.0)[:, None]
        rim = _soft((distance + 1.0).abs() - 1.2, unit)[:, None]
        canvas = canvas + glow * (colour - canvas)
        canvas = canvas + inside * (0.72 * (fill + 1) - 1 - canvas)
        return canvas + rim * (0.5 * colour + 0.42 - canvas)
    shift = max(1, round(2.0 / unit))  # the shadow is the shape, moved away from the light
    moved = torch.nn.functional.pad(distance, (shift, -shift, shift, -shift), value=UNITS)
    shadow = torch.sigmoid(-moved / 1.2)[:, None]
    canvas = canvas + 0.4 * shadow * (-0.55 - canvas)
    slope = 1 - (-distance / bevel).clamp(0, 1)
    down, across = torch.gradient(distance, spacing=unit, dim=(-2, -1))
    shade = 0.24 * slope * (LIGHT[0] * across + LIGHT[1] * down) + 0.04
    return canvas + inside * (fill + shade[:, None] - canvas)


def _colour(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _soft(distance: Tensor, unit: float) -> Tensor:
    """1 inside, 0 outside, with a slope of one pixel."""
    return (0.5 - distance / unit).clamp(0, 1)


def _pattern(texture: str, u: Tensor, v: Tensor, unit: float) -> Tensor:
    """Where the light part of the texture is, 0..1."""
    if texture == "striped":
        return _soft((v % 8 - 4).abs() - 2, unit)
    if texture == "dotted":
        return _soft(torch.hypot(u % 8 - 4, v % 8 - 4) - 2.4, unit)
    return _soft(((u % 12 - 6).abs() - 3) * ((v % 12 - 6).abs() - 3).sign(), unit)


def _distance(shape: str, u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the outline, negative inside; shapes of one ``radius`` look equally large."""
    if shape == "circle":
        return torch.hypot(u, v) - radius
    if shape == "ring":
        return (torch.hypot(u, v) - 0.78 * radius).abs() - 0.26 * radius
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.88 * radius
    if shape == "cross":
        u, v, arm, wide = u.abs(), v.abs(), radius, 0.34 * radius
        return torch.minimum(torch.maximum(u - arm, v - wide), torch.maximum(u - wide, v - arm))
    if shape == "triangle":
        low, sides = v - 0.725 * radius, 0.866 * u.abs() - 0.5 * (v - 0.15 * radius)
        return torch.maximum(low, sides - 0.575 * radius)
    # The star is one edge, mirrored and turned: from the tip at the top to the notch a tenth of a turn away.
    sector = math.pi / 5
    angle = ((torch.atan2(u, -v) + sector) % (2 * sector) - sector).abs()
    away = torch.hypot(u, v)
    px, py = away * angle.sin(), away * angle.cos()
    tip, notch = 1.2 * radius, 0.55 * radius
    ex, ey = notch * math.sin(sector), notch * math.cos(sector) - tip
    along = ((px * ex + (py - tip) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
    wx, wy = px - along * ex, py - tip - along * ey
    return torch.hypot(wx, wy) * (px * ey - (py - tip) * ex).sign().neg()


@functools.cache
def _tiles(side: int) -> Tensor:
    """Joints between tiles, one per cell; the mean of each cell is 0."""
    place = (torch.arange(side) * (UNITS / side)) % (UNITS / CELLS)
    joint = place < 1
    dark = (joint[:, None] | joint[None]).float()
    return -0.2 * (dark - dark.mean())


@functools.cache
def _hatching(side: int) -> Tensor:
    """Diagonal lines whose period is a cell; the mean of each cell is 0."""
    place = (torch.arange(side) + 0.5) * (UNITS / side)
    wave = -torch.cos((place[:, None] + place[None]) * (2 * math.pi * CELLS / UNITS))
    wave = (2.5 * wave).tanh()
    return GRAIN * (wave - wave[: side // CELLS, : side // CELLS].mean())


@functools.cache
def _grain(side: int) -> Tensor:
    """Strokes, ``2 side 2 side``, that repeat at their borders; the mean of each cell is 0."""
    noise = torch.randn(2, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(7))
    strokes = [
        torch.stack([noise[part].roll((k * down, k * across), (0, 1)) for k in range(-5, 6)]).sum(0)
        for part, (down, across) in enumerate(((1, -1), (0, 1)))
    ]
    grain = torch.stack(strokes).sum(0)
    grain = (grain / grain.std()).clamp(-1.7, 1.7)
    grain = torch.nn.functional.interpolate(grain[None, None], (2 * side, 2 * side), mode="area")
    cell = side // CELLS
    mean = torch.nn.functional.avg_pool2d(grain, cell)
    grain = (grain - mean.repeat_interleave(cell, -2).repeat_interleave(cell, -1))[0, 0]
    return grain * (GRAIN / grain.abs().max())


def _strokes(side: int, seed: int) -> Tensor:
    """The strokes of one scene, ``side side``."""
    cell = side // CELLS
    down, across = seed // CELLS % CELLS * cell, seed % CELLS * cell
    return _grain(side)[down : down + side, across : across + side]
