"""What the demo models know: shapes, colours, textures, sizes, places and backgrounds, and how they are said."""

import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (222, 40, 40),
    "orange": (246, 146, 28),
    "yellow": (244, 224, 48),
    "green": (48, 168, 72),
    "blue": (44, 92, 222),
    "purple": (150, 56, 192),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = {
    "white": (244, 244, 244),
    "black": (22, 22, 22),
    "grey": (128, 128, 128),
    "pink": (246, 192, 206),
    "brown": (108, 74, 46),
}
SIZES = {"small": 9.0, "medium": 13.0, "big": 18.0}  # radius in pixels of a picture of 64
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}
STYLES = ("plain", "ink", "night")

# Each shape and each colour is seen, but never these together: what the models make of them is not memory.
HELD_OUT = frozenset(
    (shape, list(COLOURS)[(index * 5 + 2) % len(COLOURS)]) for index, shape in enumerate(SHAPES)
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene; ``x`` and ``y`` are pixels from the middle, ``turn`` radians."""

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

    def words(self, chance: random.Random) -> str:
        """The noun phrase without article: what is medium or in the middle goes unsaid, plain mostly so."""
        says_plain = chance.random() < 0.15
        texture = self.texture if self.texture != "plain" or says_plain else ""
        size = self.size if self.size != "medium" else ""
        return " ".join(word for word in (size, texture, self.colour, self.shape) if word)


@dataclass(frozen=True)
class Scene:
    """One or two things (left, right) on a background, in a style."""

    things: tuple[Thing, ...]
    background: str
    style: str = "plain"
    seed: int = 0

    def in_style(self, style: str) -> "Scene":
        """The same scene drawn another way."""
        return replace(self, style=style)


def draw_scene(chance: random.Random, held_out: bool = False, pairs: float = 0.25) -> Scene:
    """A random scene; with ``held_out`` every thing of it is a pair of shape and colour kept from training."""
    background = chance.choice(list(BACKGROUNDS))
    if chance.random() < pairs:
        left, right = (_thing(chance, held_out, size="medium") for _ in range(2))
        shift = chance.uniform(15, 17)
        things = (replace(left, x=left.x - shift, scale=0.92), replace(right, x=right.x + shift, scale=0.92))
        return Scene(things, background, seed=chance.getrandbits(31))
    size = chance.choices(list(SIZES), weights=(1, 2, 1))[0]
    place = chance.choices(list(PLACES), weights=(1, 1, 1, 1, 4))[0]
    thing = _thing(chance, held_out, size=size)
    away = 29 - SIZES[size]
    dx, dy = PLACES[place]
    thing = replace(thing, place=place, x=thing.x + dx * away, y=thing.y + dy * away)
    return Scene((thing,), background, seed=chance.getrandbits(31))


def _thing(chance: random.Random, held_out: bool, size: str) -> Thing:
    while True:
        thing = Thing(
            shape=chance.choice(SHAPES),
            colour=chance.choice(list(COLOURS)),
            texture=chance.choices(TEXTURES, weights=(3, 1, 1, 1))[0],
            size=size,
            x=chance.uniform(-1.5, 1.5),
            y=chance.uniform(-1.5, 1.5),
            scale=chance.uniform(0.93, 1.07),
            turn=chance.uniform(-0.15, 0.15),
        )
        if thing.is_held_out == held_out:
            return thing


def caption(scene: Scene, chance: random.Random) -> str:
    """One of several ways to say the scene; the background is left out now and then."""
    phrases = [_with_article(thing.words(chance)) for thing in scene.things]
    ground = f"{scene.background} background"
    if len(phrases) == 2:
        joint = chance.choice((" and ", " and ", " left of ", " next to "))
        said = joint.join(phrases)
    else:
        place = scene.things[0].place
        if place in ("left", "right"):
            where = chance.choice((f" on the {place}", f" at the {place}"))
        elif place in ("top", "bottom"):
            where = f" at the {place}"
        else:
            where = chance.choice(("", "", "", " in the middle"))
        said = phrases[0] + where
    said = chance.choice(("{}", "{}", "{}", "a picture of {}", "a drawing of {}")).format(said)
    if chance.random() < 0.25:
        return said
    return chance.choice((f"{said} on a {ground}", f"{said}, {ground}"))


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
