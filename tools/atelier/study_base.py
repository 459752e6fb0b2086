"""How well the base follows its prompts: known pairs, held-out pairs, held-out scenes in captions of every kind."""

import random
from pathlib import Path

from blockwork.atelier import world

from . import easel, pages
from .easel import atelier
from .studio import scenes
from .study_blocks import sentence

REPEATS, SCENES, SEED = 6, 60, 12345


def followed(prompts: list[str], of: list[dict[str, str]]) -> tuple[float, ...]:
    """How often shape, colour, texture and background are as said."""
    verdict = atelier.judge(easel.paint(easel.model(), prompts))
    return tuple(verdict.right(question, [one[question] for one in of]) for question in of[0])


def plain(held_out: bool, repeats: int) -> tuple[list[str], list[dict[str, str]]]:
    """Prompts for one big plain thing on grey."""
    things = easel.pairs(held_out) * repeats
    of = [{"shape": s, "colour": c, "texture": "plain", "background": "grey"} for s, c in things]
    return [sentence(thing) for thing in things], of


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
    rows = [
        (title, len(given[0]), *followed(*given))
        for title, given in (
            ("one big plain thing, known pairs", plain(False, 1)),
            ("one big plain thing, held-out pairs", plain(True, REPEATS)),
            ("any caption, held-out pairs", drawn_at_random()),
        )
    ]
    text = f"""# How well the atelier's base follows its prompts

{easel.STEPS} steps of {easel.SAMPLER}, guidance {easel.GUIDANCE}, one picture a prompt, read by the judge.
Remade by `python tools/study_atelier.py base`.

{pages.table(("prompts", "pictures", "shape", "colour", "texture", "background"), rows)}
"""
    pages.write(out, "base", text, {})
