"""Trains words that the demo models' CLIP does not know, with the pack's own Train XTI."""

import random
from dataclasses import replace

from blockwork.demo_models.world import Thing
from blockwork.injection.xti import save
from refhost.pack import use_comfyui

from .training import SCRATCH, WEIGHTS, pictures, scenes

CONCEPTS = {
    "atelier_gem": Thing("star", "green", "dotted"),
    "atelier_tile": Thing("square", "purple", "checkered"),
}
IMAGES, BATCH = 64, 8
WORD = "circle"  # where the training starts


def run(steps: int = 300, seed: int = 61) -> None:
    """Train and publish every concept as ``embeddings/<name>.safetensors``; a run that was stopped resumes."""
    use_comfyui()
    import folder_paths
    from blockwork.injection import host_train
    from blockwork.injection.task import KINDS
    from blockwork.injection.train import Recipe

    from . import sampling

    folder_paths.set_output_directory(str(SCRATCH))
    for number, (name, thing) in enumerate(CONCEPTS.items()):
        chance = random.Random(seed + number)
        seen = [
            replace(scene, things=(_elsewhere(thing, scene.things[0], chance),))
            for scene in scenes(IMAGES, seed + number, pairs=0.0)
        ]
        images = pictures(seen).movedim(1, -1).float() / 255
        captions = [f"a {{}} on a {scene.background} background" for scene in seen]
        what = host_train.task(
            sampling.model(),
            sampling.clip(),
            f"{name}: {WORD}",
            [images],
            sampling.vae(),
            [],
            captions,
            "object",
            "",
            KINDS[0],
            1,
        )
        recipe = Recipe(steps, BATCH, seed=seed + number, density=0.0)
        trained = host_train.train(
            sampling.model(), sampling.clip(), what, recipe, host_train.Options("fp32", checkpointing=False)
        )
        path = WEIGHTS / "embeddings" / f"{name}.safetensors"
        path.unlink(missing_ok=True)
        save(trained.concepts[0], path)
        print(trained.text, flush=True)


def _elsewhere(thing: Thing, like: Thing, chance: random.Random) -> Thing:
    return replace(thing, size=like.size, turn=like.turn, x=chance.uniform(-3, 3), y=chance.uniform(-3, 3))
