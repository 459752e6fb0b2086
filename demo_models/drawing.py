"""Draws a scene as a picture, by signed distances, with smooth edges; the same scene gives the same picture."""

import numpy as np
import torch

from .world import BACKGROUNDS, COLOURS, SIZES, Scene, Thing

SIDE = 64
INK = np.array((28, 24, 36), np.float32) / 255
PAPER = np.array((238, 226, 200), np.float32) / 255
NIGHT = np.array((10, 12, 34), np.float32) / 255


def draw(scene: Scene, side: int = SIDE) -> torch.Tensor:
    """The picture of ``scene``, ``3 side side`` in 0..1."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    unit = SIDE / side
    x, y = (columns + 0.5) * unit - SIDE / 2, (rows + 0.5) * unit - SIDE / 2
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = np.array(BACKGROUNDS[scene.background], np.float32) / 255
    if scene.style == "ink":  # a pale wash of the background on hatched paper
        hatch = _soft(np.abs((x + y) % 8 - 4) - 0.7, unit)[..., None]
        canvas = 0.35 * canvas + 0.65 * PAPER
        canvas = canvas * (1 - 0.35 * hatch) + INK * 0.35 * hatch
    elif scene.style == "night":
        canvas = 0.22 * canvas + 0.78 * NIGHT
    for thing in scene.things:
        canvas = _place(canvas, thing, scene.style, x, y, unit)
    return torch.from_numpy(np.clip(canvas, 0, 1).transpose(2, 0, 1).astype(np.float32))


def _place(canvas: np.ndarray, thing: Thing, style: str, x: np.ndarray, y: np.ndarray, unit: float):
    cosine, sine = np.cos(thing.turn), np.sin(thing.turn)
    dx, dy = x - thing.x, y - thing.y
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    radius = SIZES[thing.size] * thing.scale
    distance = _distance(thing.shape, u, v, radius)
    colour = np.array(COLOURS[thing.colour], np.float32) / 255
    light = 0.18 * colour + 0.82
    pattern = _pattern(thing.texture, u, v, unit)[..., None]
    inside = _soft(distance, unit)[..., None]
    fill = colour * (1 - pattern) + light * pattern
    if style == "ink":
        line = _soft(np.abs(distance) - 1.6, unit)[..., None]
        canvas = canvas * (1 - inside) + fill * inside
        return canvas * (1 - line) + INK * line
    if style == "night":  # lit from within: a glow around, a bright rim, the body darker
        glow = np.exp(-np.maximum(distance, 0) / 5.0)[..., None]
        rim = _soft(np.abs(distance + 1.0) - 1.2, unit)[..., None]
        canvas = canvas + 0.75 * glow * (colour - canvas)
        canvas = canvas * (1 - inside) + 0.72 * fill * inside
        return canvas * (1 - rim) + (0.45 * colour + 0.55) * rim
    return canvas * (1 - inside) + fill * inside


def _soft(distance: np.ndarray, unit: float) -> np.ndarray:
    """1 inside, 0 outside, one pixel of slope between."""
    return np.clip(0.5 - distance / unit, 0, 1)


def _pattern(texture: str, u: np.ndarray, v: np.ndarray, unit: float) -> np.ndarray:
    """Where the light part of the texture lies, 0..1."""
    if texture == "striped":
        return _soft(np.abs(v % 8 - 4) - 2, unit)
    if texture == "dotted":
        return _soft(np.hypot(u % 8 - 4, v % 8 - 4) - 2.3, unit)
    if texture == "checkered":
        return _soft((np.abs(u % 12 - 6) - 3) * np.sign(np.abs(v % 12 - 6) - 3), unit)
    return np.zeros_like(u)


def _distance(shape: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the outline, negative inside; shapes of one ``radius`` look equally large."""
    if shape == "circle":
        return np.hypot(u, v) - radius
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.78 * radius) - 0.26 * radius
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.88 * radius
    if shape == "cross":
        arm, wide = radius, 0.34 * radius
        bar = np.maximum(np.abs(u) - arm, np.abs(v) - wide)
        return np.minimum(bar, np.maximum(np.abs(u) - wide, np.abs(v) - arm))
    if shape == "triangle":
        return _polygon(u, v, [(radius * 1.15 * np.sin(a), -radius * 1.15 * np.cos(a) + 0.15 * radius)
                               for a in np.arange(3) * 2 * np.pi / 3])  # fmt: skip
    reach = [1.2 * radius, 0.5 * radius] * 5
    return _polygon(u, v, [(r * np.sin(a), -r * np.cos(a))
                           for r, a in zip(reach, np.arange(10) * np.pi / 5, strict=True)])  # fmt: skip


def _polygon(u: np.ndarray, v: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    """Exact signed distance to a polygon: nearest edge, sign by counting crossings."""
    nearest = np.full(u.shape, np.inf, np.float32)
    inside = np.zeros(u.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, u - ax, v - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(wx - along * ex, wy - along * ey))
        inside ^= ((ay > v) != (by > v)) & (u < ex * (v - ay) / (ey or 1e-9) + ax)
    return np.where(inside, -nearest, nearest)
