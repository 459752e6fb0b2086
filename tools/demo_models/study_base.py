"""How well the base follows its prompts: known pairs, held-out pairs alone and with block prompts, captions of every kind."""

import random
from pathlib import Path

import torch
from blockwork.demo_models import drawing, world
from torch import Tensor

from . import pages, sampling
from .clip import load_text
from .sampling import demo_models
from .study_blocks import OBJECT, injected, sentence
from .training import scenes

REPEATS, SCENES, SEED = 6, 60, 12345


def followed(pictures: Tensor, of: list[dict[str, str]]) -> tuple[float, ...]:
    """How often shape, colour, texture and background are as said."""
    verdict = demo_models.judge(pictures)
    return tuple(verdict.right(question, [one[question] for one in of]) for question in of[0])


def plain(held_out: bool, repeats: int) -> tuple[list[str], list[dict[str, str]]]:
    """Prompts for one big plain object on grey."""
    things = sampling.pairs(held_out) * repeats
    of = [{"shape": s, "colour": c, "texture": "plain", "background": "grey"} for s, c in things]
    return [sentence(thing) for thing in things], of


def composed(repeats: int) -> Tensor:
    """The pictures of held-out pairs with the same shape, in a colour it was seen in, said in the object's blocks."""
    colours = list(world.COLOURS)
    things = sampling.pairs(held_out=True) * repeats
    seen = [(shape, colours[(colours.index(colour) + 1) % len(colours)]) for shape, colour in things]
    return injected(OBJECT, list(zip(things, seen, strict=True)))


@torch.no_grad()
def nearest() -> list[tuple[str, float, str, float]]:
    """Held-out pairs as CLIP has them: the cosine of the words and their drawing, the nearest other shape, its cosine."""
    (text, vocabulary), tower = load_text(), demo_models.load_clip_vision()
    found = []
    for shape, colour in sampling.pairs(held_out=True):
        things = [world.Thing(other, colour, size="big") for other in world.SHAPES]
        drawn = torch.stack([drawing.draw(world.Scene((thing,), "grey")) for thing in things])
        said = text(*vocabulary.rows([sentence((shape, colour))]))
        near = torch.cosine_similarity(said, tower.encode_image(drawn.movedim(1, -1))["image_embeds"])
        near = dict(zip(world.SHAPES, near.tolist(), strict=True))
        right = near.pop(shape)
        other = max(near, key=near.__getitem__)
        found.append((f"{colour} {shape}", right, other, near[other]))
    return found


def drawn_at_random() -> tuple[list[str], list[dict[str, str]]]:
    """Captions of held-out scenes with one thing, of every texture, size and place; the background always said."""
    chance, prompts, of = random.Random(SEED), [], []
    for scene in scenes(SCENES, SEED, held_out=True, pairs=0.0):
        thing, said = scene.things[0], world.caption(scene, chance)
        prompts.append(said if "background" in said else f"{said} on a {scene.background} background")
        of.append(
            {
                "shape": thing.shape,
                "colour": thing.colour,
                "texture": thing.texture,
                "background": scene.background,
            }
        )
    return prompts, of


def run(out: Path) -> None:
    """Write ``base.md``."""
    base = sampling.model()
    known, of_known = plain(held_out=False, repeats=1)
    held_out, of_held_out = plain(held_out=True, repeats=REPEATS)
    captions, of_captions = drawn_at_random()
    alone, together = sampling.paint(base, held_out), composed(REPEATS)
    results = (
        ("one big plain object, known pairs", sampling.paint(base, known), of_known),
        ("one big plain object, held-out pairs", alone, of_held_out),
        (f"the same, and in {OBJECT} its shape in a colour it was trained in", together, of_held_out),
        ("any caption, held-out pairs", sampling.paint(base, captions), of_captions),
    )
    rows = [(title, len(of), *followed(pictures, of)) for title, pictures, of in results]
    names = [f"{colour} {shape}" for shape, colour in sampling.pairs(held_out=True)] * 2
    sheet = pages.grid(
        [alone[: len(names)], together[: len(names)]],
        names,
        ["prompt alone", "with a prompt\nfor the object"],
    )
    text = f"""# How well the demo base model follows its prompts

{sampling.STEPS} steps of {sampling.SAMPLER}, guidance {sampling.GUIDANCE}, one image per prompt, classified by the demo classifier.
Made by `python tools/study_demo_models.py base`.

{pages.table(("prompts", "images", "shape", "colour", "texture", "background"), rows)}

![held-out pairs](base.jpg)

Held-out pairs fail in the text encoder, not in the U-Net: with a prompt of the same shape in a colour it was trained in, given to
the blocks that carry the object, the U-Net renders the pair. The text encoder was trained by contrast on captions that never
join the two words. It puts some of these pairs as near to another shape as to their own:

{pages.table(("words", "cosine to their drawing", "nearest other shape in that colour", "its cosine"), nearest())}
"""
    pages.write(out, "base", text, {"base.jpg": sheet})
