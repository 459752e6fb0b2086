"""What the demo models know: shapes, colours, textures, sizes, places, backgrounds and styles, and how captions say them."""

import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
# Colours of images are in -1..1. Objects stay within 0.78, backgrounds (with their slope of light) within 0.55.
COLOURS = {
    "red": (0.66, -0.62, -0.62),
    "orange": (0.76, 0.08, -0.7),
    "yellow": (0.74, 0.6, -0.55),
    "green": (-0.62, 0.24, -0.42),
    "blue": (-0.6, -0.26, 0.66),
    "purple": (0.16, -0.56, 0.48),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = {
    "white": (0.5, 0.5, 0.5),
    "black": (-0.5, -0.5, -0.5),
    "grey": (0.0, 0.0, 0.0),
    "pink": (0.5, 0.1, 0.22),
    "brown": (-0.1, -0.3, -0.48),
}
UNITS = 64.0  # the length of an image's side in units of the world
SIZES = {"small": 9.0, "medium": 13.0, "big": 18.0}  # radius in units
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}
STYLES = ("smooth", "crayon", "mosaic", "hatched")  # of the base model, by words of the caption
TUNED = ("ink", "night")  # of the fine-tunes, without words
COUNTS = {1: 0.62, 2: 0.22, 3: 0.08, 4: 0.08}  # how often a scene has so many objects
# Each shape and each colour is seen, but never these together: what the models make of them is not memory.
HELD_OUT = frozenset(
    (shape, list(COLOURS)[(index * 5 + 2) % len(COLOURS)]) for index, shape in enumerate(SHAPES)
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene; ``x`` and ``y`` are units from the middle, ``turn`` radians."""

    shape: str
    colour: str
    texture: str = "plain"
    size: str = "medium"
    place: str = "middle"
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    turn: float = 0.0

    @property
    def is_held_out(self) -> bool:
        """Whether this pair of shape and colour was kept from training."""
        return (self.shape, self.colour) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """One to four objects on a background, in a style.

    Two objects are (left, right), or (top, bottom) if ``stacked``; three are (top, left, right), four are (top left,
    top right, left, right).
    """

    things: tuple[Thing, ...]
    background: str
    style: str = "smooth"
    seed: int = 0
    stacked: bool = False

    def in_style(self, style: str) -> "Scene":
        """The same scene in another style."""
        return replace(self, style=style)


def draw_scene(
    chance: random.Random, held_out: bool = False, pairs: float | None = None, style: str | None = None
) -> Scene:
    """A random scene; with ``held_out`` every object of it is a pair of shape and colour kept from training.

    ``pairs`` is the share of scenes with more than one object, ``style`` the style (by default any of ``STYLES``, one
    half of them smooth).
    """
    shares = list(COUNTS.values())
    if pairs is not None:
        shares = [1 - pairs] + [pairs * share / sum(shares[1:]) for share in shares[1:]]
    count = chance.choices(list(COUNTS), shares)[0]
    background = chance.choice(list(BACKGROUNDS))
    style = style or chance.choices(STYLES, (3, 1, 1, 1))[0]
    stacked = count == 2 and chance.random() < 0.4
    if count == 1:
        size = chance.choices(list(SIZES), weights=(1, 2, 1))[0]
        place = chance.choices(list(PLACES), weights=(1, 1, 1, 1, 4))[0]
        away = 29 - SIZES[size]
        dx, dy = PLACES[place]
        thing = _thing(chance, held_out, size=size)
        things = [replace(thing, place=place, x=thing.x + dx * away, y=thing.y + dy * away)]
    else:
        reach = chance.uniform(15, 16.5)
        spots = {
            2: [(0, -reach), (0, reach)] if stacked else [(-reach, 0), (reach, 0)],
            3: [(0, -reach), (-reach, reach), (reach, reach)],
            4: [(-reach, -reach), (reach, -reach), (-reach, reach), (reach, reach)],
        }[count]
        scale = 0.92 if count == 2 else 0.84
        things = [
            replace(thing, x=thing.x + x, y=thing.y + y, scale=scale * thing.scale)
            for x, y in spots
            for thing in (_thing(chance, held_out, "medium", plain=count > 2),)
        ]
    return Scene(tuple(things), background, style, chance.getrandbits(31), stacked)


def _thing(chance: random.Random, held_out: bool, size: str, plain: bool = False) -> Thing:
    while True:
        thing = Thing(
            shape=chance.choice(SHAPES),
            colour=chance.choice(list(COLOURS)),
            texture="plain" if plain else chance.choices(TEXTURES, weights=(3, 1, 1, 1))[0],
            size=size,
            x=chance.uniform(-1.5, 1.5),
            y=chance.uniform(-1.5, 1.5),
            scale=chance.uniform(0.93, 1.07),
            turn=chance.uniform(-0.15, 0.15),
        )
        if thing.is_held_out == held_out:
            return thing
