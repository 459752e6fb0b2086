"""XTI against textual inversion and LoRA on the demo model, by the judge.

The method, fixed before these images were sampled:

- The concept is a dotted green star, drawn 32 times on the five backgrounds. The captions are "a <gem> on a grey
  background" and so on. Every token starts from the word "circle", which has none of the three properties.
- All arms have the same images, captions, seed, batch of 2, AdamW and steps: one vector (TI-1), 16 vectors one after the
  other (TI-16), one vector per layer (XTI), the same with the density term at 0.01, a vector for keys and another for
  values in each layer (K/V), and a LoRA of rank 4 on all attention projections of the U-Net, whose prompts have the
  unknown word "gem". The learning rate is 0.005 for tokens and 0.001 for the LoRA.
- Reconstruction: "a <gem> on a B background" for the five backgrounds, a share of images that the demo classifier reads as a star,
  as green, as dotted, and as all three. Editability: "a C <gem> on a grey background" for the five other colours, the
  share with that colour, with a star, and with both.
- Snapshots of XTI over the steps, its emphasis in the prompt, and CFG are measured in the same way.
- Seeds are the same in all arms. Intervals are 95 % (Wilson), of images alone: there is one training run per arm.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from blockwork.blocks.spec import Setting, Spec
from blockwork.demo_models.world import BACKGROUNDS, COLOURS, Thing
from blockwork.injection import host, host_loss, host_train, host_xti
from blockwork.injection.concept import XTI
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection
from blockwork.injection.host_change import Change
from blockwork.injection.host_denoiser import Denoiser
from blockwork.injection.task import APART, KINDS, Task
from blockwork.injection.train import Recipe, Trainer
from torch import Tensor, nn

from . import pages, sampling
from .sampling import demo_models
from .training import SCRATCH, scenes
from .training import images as drawn_images

THING, WORD = Thing("star", "green", "dotted"), "circle"
IMAGES, BATCH, STEPS, RATE, LORA_RATE, RANK, SEED = 32, 2, 100, 5e-3, 1e-3, 4, 11
SNAPSHOTS = (25, 50)
REPEATS, PAINTED_STEPS = 6, 10
EMPHASES, GUIDANCES = (0.7, 1.3), (2.0, 7.0)
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
# The claims, fixed with the method: what of which arm is better than that of which other arm.
CLAIMS = (
    ("XTI learns the concept better than textual inversion with one vector, at equal steps.", 3, "XTI", "TI, 1 vector"),
    ("XTI learns the concept better than textual inversion with 16 vectors, at equal steps.", 3, "XTI", "TI, 16 vectors"),
    ("XTI learns the concept better than a LoRA of rank 4, at equal steps.", 3, "XTI", "LoRA, rank 4"),
    ("XTI is edited better than textual inversion with one vector (colour asked for and star kept).", 6, "XTI", "TI, 1 vector"),
    ("The density term makes XTI's words easier to edit.", 6, "XTI, density 0.01", "XTI"),
    ("A vector for keys and another for values learn the concept better than one.", 3, "XTI, K and V apart", "XTI"),
)  # fmt: skip
Painter = Callable[[str, float], Tensor]  # a prompt with <gem>, guidance -> images


def drawn() -> tuple[Tensor, list[str]]:
    """The images ``n 128 128 3`` of the concept, and their captions."""
    chance = random.Random(SEED)
    seen = [
        replace(scene, things=(replace(THING, size=scene.things[0].size, x=chance.uniform(-3, 3), y=chance.uniform(-3, 3)),))
        for scene in scenes(IMAGES, SEED, "smooth", pairs=0.0)
    ]  # fmt: skip
    return drawn_images(seen).movedim(1, -1).float() / 255, [
        f"a {{}} on a {s.background} background" for s in seen
    ]


@cache
def task(kind: str, vectors: int) -> Task:
    images, captions = drawn()
    return host_train.task(
        sampling.model(),
        sampling.clip(),
        f"gem: {WORD}",
        [images],
        sampling.vae(),
        [],
        captions,
        "object",
        "",
        kind,
        vectors,
    )


def tokens(
    kind: str = KINDS[0], vectors: int = 1, density: float = 0.0, steps: int = STEPS
) -> host_train.Trained:
    """A trained token; a run that was stopped resumes, and more steps extend it."""
    recipe = Recipe(steps, BATCH, learning_rate=RATE, seed=SEED, density=density)
    options = host_train.Options("fp32", checkpointing=False)
    trained = host_train.train(sampling.model(), sampling.clip(), task(kind, vectors), recipe, options)
    print(trained.text, flush=True)
    return trained


def lora() -> Any:
    """The demo model with a LoRA trained on the same batches."""
    what = replace(
        task(KINDS[1], 1),
        captions=[(text.replace("<gem>", "gem"),) for (text,) in task(KINDS[1], 1).captions],
    )
    denoiser = Denoiser(sampling.model(), sampling.clip(), "fp32", checkpointing=False)
    generator = torch.Generator().manual_seed(SEED)
    layers = {
        name: layer
        for name, layer in denoiser.base.diffusion_model.named_modules()
        if isinstance(layer, nn.Linear)
        and (".attn1." in name or ".attn2." in name)
        and name.endswith(PROJECTIONS)
    }
    start = {
        f"{name}/{part}": value
        for name, layer in layers.items()
        for part, value in (
            ("down", torch.randn(RANK, layer.in_features, generator=generator) / layer.in_features**0.5),
            ("up", torch.zeros(layer.out_features, RANK)),
        )
    }
    trained: dict[str, Tensor] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(
            lambda _, given, out, name=name: (
                out + given[0] @ trained[f"{name}/down"].T @ trained[f"{name}/up"].T
            )
        )
    said, criterion = host_loss.caption_tokens(sampling.clip(), what), nn.MSELoss()

    def loss_of(vectors: Any, chosen: Sequence[int], generator: torch.Generator) -> Tensor:
        trained.update(vectors)
        none = {"0/clip_l": torch.zeros(1, 1, 128)}  # one group of prompts, without a token to learn
        return host_loss.batch_loss(denoiser, what, said, criterion, none, chosen, generator)

    recipe = Recipe(STEPS, BATCH, learning_rate=LORA_RATE, seed=SEED, density=0.0)
    trainer = Trainer(start, loss_of, IMAGES, recipe, checkpoint=SCRATCH / "xti_study" / "lora.safetensors")
    with torch.enable_grad():
        trainer.run()
    denoiser.close()
    print(host_train.report(trainer, what, 0, {}), flush=True)
    model = sampling.model().clone()
    ways = {
        f"diffusion_model.{name}.weight": ("diff", ((trainer.vectors[f"{name}/up"] @ trainer.vectors[f"{name}/down"]).detach(),))
        for name in layers
    }  # fmt: skip
    assert set(model.add_patches(ways)) == set(ways)
    return model


def paint_token(concept: XTI, text: str, guidance: float) -> Tensor:
    change, conditioning = host_xti.encode(sampling.model(), sampling.clip(), text, [concept])
    return _paint(host.prepare(sampling.model()), change.on(conditioning), guidance)


def paint_apart(keys: XTI, values: XTI, text: str, guidance: float) -> Tensor:
    """Keys read the one token's prompt, values the other's, layer by layer."""
    model, clip = sampling.model(), sampling.clip()
    blocks = host.blocks_of(model)
    made = []
    for part, concept in (("k", keys), ("v", values)):
        encoded = host_xti.encode_layers(
            clip, [host_xti.layer_tokens(clip, text, [concept], n) for n in range(len(concept.keys))]
        )
        for conditioning, layer in zip(encoded, blocks.sub_blocks, strict=True):
            spec = Spec(part, {layer: (Setting(),)})
            made.append(injection(spec, stretches(conditioning, blocks), part=part))
    return _paint(host.prepare(model), Change(tuple(made)).on(sampling.said("")), guidance)


def paint_lora(model: Any, text: str, guidance: float) -> Tensor:
    return _paint(model, sampling.said(text.replace("<gem>", "gem")), guidance)


def _paint(model: Any, conditioning: Any, guidance: float) -> Tensor:
    return sampling.paint(model, conditioning, REPEATS, seed=SEED, guidance=guidance, steps=PAINTED_STEPS)


def reconstruction(
    paint: Painter, guidance: float = sampling.GUIDANCE, token: str = "<gem>"
) -> tuple[list[int], Tensor]:
    """How many images are a star, green, dotted, all three; and the images."""
    images = torch.cat([paint(f"a {token} on a {ground} background", guidance) for ground in BACKGROUNDS])
    seen = demo_models.judge(images).answers
    right = [
        [answer == wanted for answer in seen[question]]
        for question, wanted in (("shape", THING.shape), ("colour", THING.colour), ("texture", THING.texture))
    ]
    return [*map(sum, right), sum(all(one) for one in zip(*right, strict=True))], images


def editability(
    paint: Painter, guidance: float = sampling.GUIDANCE, token: str = "<gem>"
) -> tuple[list[int], Tensor]:
    """How many images have the colour that was asked for, a star, both; and the images."""
    asked = [colour for colour in COLOURS if colour != THING.colour]
    images = torch.cat([paint(f"a {colour} {token} on a grey background", guidance) for colour in asked])
    seen = demo_models.judge(images).answers
    colours = [answer == asked[number // REPEATS] for number, answer in enumerate(seen["colour"])]
    shapes = [answer == THING.shape for answer in seen["shape"]]
    return [sum(colours), sum(shapes), sum(a and b for a, b in zip(colours, shapes, strict=True))], images


def measured(
    paint: Painter, guidance: float = sampling.GUIDANCE, token: str = "<gem>"
) -> tuple[list[int], list[Tensor]]:
    kept, first = reconstruction(paint, guidance, token)
    edited, second = editability(paint, guidance, token)
    return [*kept, *edited], [*first[::REPEATS], *second[::REPEATS]]


def run(out: Path) -> None:
    """Write ``xti.md`` and its images."""
    folder_paths.set_output_directory(str(SCRATCH / "xti_study"))
    snapshots = {
        n: tokens(steps=n).concepts[0] for n in SNAPSHOTS
    }  # before the whole run, which extends them
    apart, model = tokens(APART), lora()
    trained = {
        "TI, 1 vector": tokens(KINDS[1]),
        "TI, 16 vectors": tokens(KINDS[1], 16),
        "XTI": tokens(),
        "XTI, density 0.01": tokens(density=0.01),
    }
    painters: dict[str, Painter] = {
        name: partial(paint_token, one.concepts[0]) for name, one in trained.items()
    }
    painters["XTI, K and V apart"] = partial(paint_apart, apart.concepts[0], apart.values[0])
    painters["LoRA, rank 4"] = partial(paint_lora, model)
    painters['the word "circle"'] = lambda text, guidance: paint_lora(
        sampling.model(), text.replace("<gem>", WORD), guidance
    )
    found = {}
    for name, paint in painters.items():
        found[name] = measured(paint)
        print(name, found[name][0], flush=True)
    xti = painters["XTI"]
    ways: dict[str, tuple[Painter, float, str]] = {
        f"{n} steps": (partial(paint_token, one), sampling.GUIDANCE, "<gem>") for n, one in snapshots.items()
    }
    ways |= {f"emphasis {w:g}": (xti, sampling.GUIDANCE, f"(<gem>:{w:g})") for w in EMPHASES}
    ways |= {f"CFG {cfg:g}": (xti, cfg, "<gem>") for cfg in GUIDANCES}
    others = {f"{STEPS} steps, CFG {sampling.GUIDANCE:g}": found["XTI"]}
    for name, way in ways.items():
        others[name] = measured(*way)
        print(name, others[name][0], flush=True)
    head = ("", "star", "green", "dotted", "all three", "colour asked for", "star kept", "both")

    def rows(of: dict[str, tuple[list[int], list[Tensor]]]) -> list[tuple[str, ...]]:
        count = 5 * REPEATS
        return [(name, *(pages.share(hits, count) for hits in hits_of)) for name, (hits_of, _) in of.items()]

    def ends(name: str, number: int) -> pages.Interval:
        return pages.wilson(found[name][0][number], 5 * REPEATS)

    claims = "\n\n".join(
        pages.verdict(claim, pages.apart(ends(worse, number), ends(better, number)),
                      f"{better}: {pages.share(found[better][0][number], 5 * REPEATS)}; {worse}: "
                      f"{pages.share(found[worse][0][number], 5 * REPEATS)}.")
        for claim, number, better, worse in CLAIMS
    )  # fmt: skip

    def chart(of: dict[str, tuple[list[int], list[Tensor]]], title: str) -> Any:
        named = {"all three": 3, "colour asked for": 4, "both": 6}
        return pages.bars(
            list(of),
            {n: [hits[i] / (5 * REPEATS) for hits, _ in of.values()] for n, i in named.items()},
            title,
            intervals={
                n: [pages.wilson(hits[i], 5 * REPEATS) for hits, _ in of.values()] for n, i in named.items()
            },
        )

    columns = [*BACKGROUNDS, *(colour for colour in COLOURS if colour != THING.colour)]
    sheet = pages.grid(
        [images for _, images in found.values()], columns, [n.replace(", ", ",\n") for n in found]
    )
    second = pages.grid(
        [images for _, images in others.values()], columns, [n.replace(", ", ",\n") for n in others]
    )
    losses = {"XTI, K and V apart": apart, **trained}
    table = [(name, sum(one.losses[-20:]) / 20, one.text.splitlines()[-1] if "density:" in one.text else "") for name, one in losses.items()]  # fmt: skip
    text = f"""# XTI, textual inversion and LoRA on the demo model

{str(__doc__).partition(chr(10))[2].strip()}

{STEPS} steps of {BATCH}; images with {PAINTED_STEPS} steps of {sampling.SAMPLER}, CFG {sampling.GUIDANCE:g}, {5 * REPEATS} per share.
Made by `python tools/study_demo_models.py xti`.

## What was found

One run per arm. A claim holds if the 95 % intervals of the two shares are apart in its direction.

{claims}

## Reconstruction and editability

{pages.table(head, rows(found))}

![images](xti.jpg)

{pages.table(("", "loss, mean of the last 20 steps", "density"), table)}

## Snapshots, emphasis and CFG, of XTI without the density term

{pages.table(head, rows(others))}

![snapshots](xti_snapshots.jpg)

![charts](xti_charts.png)
"""
    charts = pages.stack([chart(found, "By method"), chart(others, "XTI: steps, emphasis, CFG")])
    pages.write(out, "xti", text, {"xti.jpg": sheet, "xti_snapshots.jpg": second, "xti_charts.png": charts})
