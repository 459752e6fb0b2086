"""Samples with the demo models in this process, which has ComfyUI on its path: core's own sampling."""

import functools
from collections.abc import Sequence
from typing import Any

import blockwork.demo_models.host as demo_models
import comfy.sample
import torch
from blockwork.demo_models import world
from torch import Tensor

STEPS, GUIDANCE = 14, 4.0
SAMPLER, SCHEDULER = "dpmpp_2m", "karras"

model = functools.cache(demo_models.load_model)
clip = functools.cache(demo_models.load_clip)
vae = functools.cache(demo_models.load_vae)


@functools.cache
def said(text: str) -> Any:
    """The conditioning of a prompt."""
    return clip().encode_from_tokens_scheduled(clip().tokenize(text))


def together(prompts: Sequence[str]) -> Any:
    """One conditioning for a batch of pictures, each with a prompt of its own."""
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
    """Pictures ``count 64 64 3`` in 0..1 of one MODEL and a conditioning of one prompt or as many, or their texts."""
    if isinstance(positive, list) and isinstance(positive[0], str):
        positive, count = together(positive), len(positive)
    noise = torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    latents = comfy.sample.sample(
        of, noise, steps, guidance, SAMPLER, SCHEDULER, positive, said(""), torch.zeros_like(noise),
        disable_pbar=True, seed=seed,
    )  # fmt: skip
    return vae().decode(latents)


def right(pictures: Tensor, things: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """How often shape and colour of the pictures are as said, one thing each."""
    verdict = demo_models.judge(pictures)
    shapes, colours = zip(*things, strict=True)
    return verdict.right("shape", list(shapes)), verdict.right("colour", list(colours))


def pairs(held_out: bool) -> list[tuple[str, str]]:
    """Every shape with every colour that was kept from training, or that was not."""
    return [
        (shape, colour)
        for shape in world.SHAPES
        for colour in world.COLOURS
        if ((shape, colour) in world.HELD_OUT) == held_out
    ]


def prompt(shape: str, colour: str, background: str = "grey", extra: str = "") -> str:
    """A plain sentence for one thing."""
    words = " ".join(word for word in (extra, colour, shape) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} on a {background} background"
