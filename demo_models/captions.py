"""Captions of scenes: several phrasings, some without an attribute, some with words that no model knows; and wrong ones."""

import random
from dataclasses import replace

from .world import BACKGROUNDS, COLOURS, SHAPES, SIZES, STYLES, TEXTURES, Scene, Thing

# Words outside the models' vocabulary. All unknown words have one embedding, which learns from these to mean nothing.
UNKNOWN = (
    "lovely", "masterpiece", "detailed", "cinematic", "4k", "epic", "portrait", "shiny", "famous", "trending", "sharp",
    "old", "photograph", "render", "glorious", "moody", "award", "studio", "vivid", "quiet",
)  # fmt: skip
NAMES = {  # how a style is said, before or after the objects
    "smooth": ("a smooth image of {}", "{}, smooth"),
    "crayon": ("a crayon drawing of {}", "{}, crayon style", "{} in crayon"),
    "mosaic": ("a mosaic of {}", "{}, mosaic style", "{} as a mosaic"),
    "hatched": ("a hatched drawing of {}", "{}, hatched style", "{}, hatched"),
}
WITHOUT = 0.14  # how often the colour or the shape of a single object is left out
UNSAID = {"smooth": 0.75}  # how often a style is left out; others: never


def words(thing: Thing, chance: random.Random, alone: bool = True) -> str:
    """The noun phrase with its article: medium is not said, plain rarely, the colour or the shape sometimes not."""
    says_plain = chance.random() < 0.1
    left_out, phrase = chance.random(), chance.random()
    texture = thing.texture if thing.texture != "plain" or says_plain else ""
    size = thing.size if thing.size != "medium" else ""
    colour, shape = thing.colour, thing.shape
    if alone and left_out < WITHOUT / 2:
        colour = ""
    elif alone and left_out < WITHOUT:
        shape = "shape" if phrase < 0.5 else "thing"
    if colour and phrase > 0.85:
        return _with_article(_joined(size, texture, shape)) + (
            f" in {colour}" if phrase < 0.93 else f" that is {colour}"
        )
    return _with_article(_joined(size, texture, colour, shape))


def caption(scene: Scene, chance: random.Random, unknown: float = 0.0) -> str:
    """One of several ways to say the scene, with unknown words in a share of ``unknown`` of the captions.

    The background is left out now and then, the smooth style mostly.
    """
    said = _objects(scene, chance)
    said = chance.choice(("{}", "{}", "{}", "an image of {}", "there is {}")).format(said)
    ground, where = chance.random(), f"{scene.background} background"
    if ground > 0.25:
        said = f"{said} on a {where}" if ground < 0.63 else f"{said}, {where}"
    style, way = chance.random(), chance.random()
    if scene.style in NAMES and style >= UNSAID.get(scene.style, 0.0):
        ways = NAMES[scene.style]
        said = ways[int(way * len(ways))].format(said.removeprefix("an image of ").removeprefix("there is "))
    if chance.random() < unknown:
        said = with_unknown(said, chance)
    return said


def wrong(scene: Scene, seed: int) -> tuple[str, str]:
    """A caption of the scene and the same with another word in one place, so that it is wrong: a hard negative.

    The changed object may be a pair of shape and colour that is kept from training: its words, never its image.
    """
    chance = random.Random(seed)
    true = caption(scene, random.Random(seed))
    for _ in range(20):
        false = caption(_changed(scene, chance), random.Random(seed))
        if false != true:
            return true, false
    return true, caption(
        replace(scene, background=_other(chance, BACKGROUNDS, scene.background)), random.Random(seed)
    )


def with_unknown(said: str, chance: random.Random) -> str:
    """The caption with one or two words that no model knows."""
    parts = said.split()
    for _ in range(chance.choice((1, 1, 2))):
        parts.insert(chance.randint(0, len(parts)), chance.choice(UNKNOWN))
    return " ".join(parts)


def _objects(scene: Scene, chance: random.Random) -> str:
    alone = len(scene.things) == 1
    phrases = [words(thing, chance, alone) for thing in scene.things]
    way = chance.random()
    if alone:
        place = scene.things[0].place
        if place in ("left", "right"):
            return phrases[0] + (f" on the {place}" if way < 0.5 else f" at the {place}")
        if place in ("top", "bottom"):
            return f"{phrases[0]} at the {place}"
        return phrases[0] + (" in the middle" if way < 0.25 else "")
    if len(scene.things) == 2:
        first, second = ("above", "below") if scene.stacked else ("left of", "right of")
        a, b = phrases
        if way < 0.3:
            return f"{a} {first} {b}"
        if way < 0.5:
            return f"{b} {second} {a}"
        return f"{a} and {b}" if way < 0.8 else f"{a} next to {b}"
    if len(scene.things) == 3:
        a, b, c = phrases
        if way < 0.4:
            return f"{a} above {b} and {c}"
        return f"{b} and {c} below {a}" if way < 0.6 else f"{a}, {b} and {c}"
    a, b, c, d = phrases
    return f"{a} and {b} above {c} and {d}" if way < 0.6 else f"{a}, {b}, {c} and {d}"


def _changed(scene: Scene, chance: random.Random) -> Scene:
    """The scene with one attribute of one object, the background or the style changed, shapes and colours most often."""
    place = chance.randrange(len(scene.things))
    thing = scene.things[place]
    what = chance.choices(("shape", "colour", "texture", "size", "background", "style"), (8, 8, 3, 1, 2, 3))[
        0
    ]
    if what == "background":
        return replace(scene, background=_other(chance, BACKGROUNDS, scene.background))
    if what == "style" and scene.style in STYLES:
        return replace(scene, style=_other(chance, STYLES, scene.style))
    values = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}.get(what, SHAPES)
    what = what if what != "style" else "shape"
    changed = replace(thing, **{what: _other(chance, values, getattr(thing, what))})
    return replace(scene, things=(*scene.things[:place], changed, *scene.things[place + 1 :]))


def _other(chance: random.Random, values, now: str) -> str:
    return chance.choice([value for value in values if value != now])


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _with_article(said: str) -> str:
    return f"an {said}" if said[0] in "aeiou" else f"a {said}"
