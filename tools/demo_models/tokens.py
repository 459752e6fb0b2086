"""Trains words that the demo models' CLIP does not know, with the pack's own Train XTI."""

import random
from dataclasses import replace

from blockwork.demo_models import drawing
from blockwork.demo_models.world import Thing
from blockwork.injection.xti import save

from .training import HERE, images, meet, scenes

CONCEPTS = {
    "atelier_gem": Thing("star", "green", "dotted"),
    "atelier_tile": Thing("square", "purple", "checkered"),
}
IMAGES, BATCH = 64, 8
WORD = "circle"  # where the training starts
STEPS = 50.0  # per minute of two cores


def run(minutes: float, seed: int = 61) -> None:
    """Train and publish every concept as ``embeddings/<name>.safetensors``; a run that was stopped resumes."""
    import folder_paths
    from blockwork.injection import host_train
    from blockwork.injection.task import KINDS
    from blockwork.injection.train import Recipe

    from . import sampling

    if HERE.rank:  # the pack's own training of words is of one process
        meet()
        return
    folder_paths.set_output_directory(str(HERE.folder))
    for number, (name, thing) in enumerate(CONCEPTS.items()):
        chance = random.Random(seed + number)
        seen = [
            replace(scene, things=(_elsewhere(thing, scene.things[0], chance),))
            for scene in scenes(IMAGES, seed + number, "smooth", pairs=0.0)
        ]
        drawn = images(seen, drawing.SIDE).movedim(1, -1).float() / 255
        captions = [f"a {{}} on a {scene.background} background" for scene in seen]
        what = host_train.task(
            sampling.model(),
            sampling.clip(),
            f"{name}: {WORD}",
            [drawn],
            sampling.vae(),
            [],
            captions,
            "object",
            "",
            KINDS[0],
            1,
        )
        recipe = Recipe(round(STEPS * minutes / len(CONCEPTS)), BATCH, seed=seed + number, density=0.0)
        trained = host_train.train(
            sampling.model(), sampling.clip(), what, recipe, host_train.Options("fp32", checkpointing=False)
        )
        path = HERE.weights / "embeddings" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        save(trained.concepts[0], path)
        print(trained.text, flush=True)
    meet()


def _elsewhere(thing: Thing, like: Thing, chance: random.Random) -> Thing:
    return replace(thing, size=like.size, turn=like.turn, x=chance.uniform(-3, 3), y=chance.uniform(-3, 3))
