"""Paints with the atelier's models in this process: ComfyUI's own sampling, the pack's own nodes."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from blockwork.atelier import world
from refhost.pack import use_comfyui
from torch import Tensor

use_comfyui()

import blockwork.atelier.host as atelier  # noqa: E402 - needs ComfyUI on the path
import comfy.sample  # noqa: E402

STEPS, GUIDANCE = 14, 4.0
SAMPLER, SCHEDULER = "dpmpp_2m", "karras"

model = functools.cache(atelier.load_model)
clip = functools.cache(atelier.load_clip)
vae = functools.cache(atelier.load_vae)


@functools.cache
def said(text: str) -> Any:
    """The conditioning of a prompt."""
    return clip().encode_from_tokens_scheduled(clip().tokenize(text))


def paint(
    of: Any,
    positive: Any,
    seeds: Sequence[int],
    negative: Any = None,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> Tensor:
    """Pictures ``seeds 64 64 3`` in 0..1 of one MODEL and one conditioning (or prompt), a seed each."""
    positive = said(positive) if isinstance(positive, str) else positive
    noise = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
    latents = comfy.sample.sample(
        of, noise, steps, guidance, SAMPLER, SCHEDULER, positive, said("") if negative is None else negative,
        torch.zeros_like(noise), disable_pbar=True, seed=seeds[0],
    )  # fmt: skip
    return vae().decode(latents)


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
