"""Samples with the demo models in this process, which has ComfyUI on its path: core's own sampling."""

import functools
import random
from collections.abc import Sequence
from typing import Any

import blockwork.demo_models.host as demo_models
import comfy.sample
import torch
from blockwork.demo_models import captions, drawing, world
from blockwork.demo_models.autoencoder import DOWNSCALE, LATENT_CHANNELS
from torch import Tensor

STEPS, GUIDANCE = 10, 4.0
SAMPLER, SCHEDULER = "dpmpp_2m", "karras"
LATENT = drawing.SIDE // DOWNSCALE
STYLED = {style: captions.NAMES[style][0] for style in world.STYLES[1:]}  # prompts in a style that is named
TOGETHER = 25  # images sampled together
share = 1.0  # of the prompts of a study that are used: for a trial of its code

model = functools.cache(demo_models.load_model)
clip = functools.cache(demo_models.load_clip)
vae = functools.cache(demo_models.load_vae)


def count(whole: int) -> int:
    """How many prompts a study uses."""
    return max(2, round(whole * share))


@functools.cache
def said(text: str) -> Any:
    """The conditioning of a prompt."""
    return clip().encode_from_tokens_scheduled(clip().tokenize(text))


def together(prompts: Sequence[str]) -> Any:
    """One conditioning for a batch of images, each with its own prompt."""
    return [[torch.cat([said(prompt)[0][0] for prompt in prompts]), {}]]


@torch.no_grad()
def paint(
    of: Any,
    positive: Any,
    count: int = 1,
    seed: int = 1,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> Tensor:
    """Images ``count 128 128 3`` in 0..1 of one MODEL and a conditioning of one prompt or as many, or their texts.

    The model computes in bfloat16, which takes half of the time on a CPU; images differ by 0.001 of 1 in the mean.
    """
    if isinstance(positive, list) and isinstance(positive[0], str):
        parts = [positive[at : at + TOGETHER] for at in range(0, len(positive), TOGETHER)]
        return torch.cat(
            [
                paint(of, together(part), len(part), seed + at, guidance, steps)
                for at, part in enumerate(parts)
            ]
        )
    noise = torch.randn(count, LATENT_CHANNELS, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))
    fast = of.clone()
    fast.set_model_compute_dtype(torch.bfloat16)
    latents = comfy.sample.sample(
        fast, noise, steps, guidance, SAMPLER, SCHEDULER, positive, said(""), torch.zeros_like(noise),
        disable_pbar=True, seed=seed,
    )  # fmt: skip
    return vae().decode(latents)


def right(images: Tensor, things: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """How often shape and colour of the images are as said, one object each."""
    verdict = demo_models.judge(images)
    shapes, colours = zip(*things, strict=True)
    return verdict.right("shape", list(shapes)), verdict.right("colour", list(colours))


def hits(images: Tensor, **wanted: Sequence[str]) -> dict[str, Tensor]:
    """Per question (``shape``, ``colour``, ...) whether each image is as wanted, ``n`` of 0 and 1."""
    answers = demo_models.judge(images).answers
    return {
        question: torch.tensor([float(a == b) for a, b in zip(answers[question], aim, strict=True)])
        for question, aim in wanted.items()
    }


def pairs(held_out: bool) -> list[tuple[str, str]]:
    """Every shape with every colour that was kept from training, or that was not."""
    return [
        (shape, colour)
        for shape in world.SHAPES
        for colour in world.COLOURS
        if ((shape, colour) in world.HELD_OUT) == held_out
    ]


def opposites(many: int, seed: int) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of known (shape, colour), both different, drawn at random: fixed by the seed before anything is sampled."""
    chance, known, found = random.Random(seed), pairs(held_out=False), []
    while len(found) < many:
        own, other = chance.sample(known, 2)
        if own[0] != other[0] and own[1] != other[1]:
            found.append((own, other))
    return found


def prompt(shape: str, colour: str, background: str = "grey", extra: str = "") -> str:
    """A plain sentence for one object."""
    words = " ".join(word for word in (extra, colour, shape) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} on a {background} background"
