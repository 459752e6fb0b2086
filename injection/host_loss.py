"""The loss of some images of a task: their captions with the vectors to learn, through text encoder and U-Net."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .concept import XTI
from .host_denoiser import Denoiser, batch_contexts
from .host_xti import layer_tokens, vocabularies
from .task import Task
from .train import Vectors

EDGE = 1e-4  # of the schedule, at whose ends there is no noise level
Sections = dict[str, list[list[Any]]]  # by text encoder: tokens, and (concept, vector) where a vector belongs


def caption_tokens(clip: Any, what: Task) -> Callable[[str], Sections]:
    """Captions as sections of tokens: word ids, and ``(concept, vector)`` where a vector to learn belongs."""
    widths = [table.shape[1] for table in vocabularies(clip)]
    marks = [[torch.empty(what.vectors, width) for width in widths] for _ in what.concepts]
    stand_ins = [
        XTI(one.name, (mark[0],), large=tuple(mark[1:2]))
        for one, mark in zip(what.concepts, marks, strict=True)
    ]
    places = {
        mark[number].data_ptr(): (concept, number)
        for concept, of_encoders in enumerate(marks)
        for mark in of_encoders
        for number in range(what.vectors)
    }

    def place(token: Any) -> Any:
        return places[token.data_ptr()] if isinstance(token, Tensor) else token

    known: dict[str, Sections] = {}

    def tokens(caption: str) -> Sections:
        if caption not in known:
            read = layer_tokens(clip, caption, stand_ins, 0, disable_weights=True)
            known[caption] = {
                name: [[place(token) for token, _ in section] for section in sections]
                for name, sections in read.items()
            }
        return known[caption]

    return tokens


def batch_loss(
    denoiser: Denoiser, what: Task, tokens: Callable[[str], Any], criterion: torch.nn.Module, vectors: Vectors,
    chosen: Sequence[int], generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """The loss of some images: those of one size go through the model together."""
    drawn = []
    for number in chosen:
        captions, latent = what.captions[number], what.latents[number]
        share = float(torch.rand((), generator=generator).clamp(EDGE, 1 - EDGE))
        which = int(torch.randint(len(captions), (), generator=generator))
        drawn.append((latent, captions[which], share, torch.randn(latent.shape, generator=generator)))
    total = torch.zeros((), device=denoiser.device)
    for shape in {one[0].shape: None for one in drawn}:
        batch = [one for one in drawn if one[0].shape == shape]
        latents, captions, shares, noise = zip(*batch, strict=True)
        contexts, pooled = _contexts(denoiser, [tokens(one) for one in captions], vectors)
        error = denoiser.error(torch.cat(latents), shares, torch.cat(noise), contexts, pooled)
        total = total + criterion(error, torch.zeros_like(error)) * (len(batch) / len(drawn))
    return total


def _contexts(
    denoiser: Denoiser, captions: Sequence[Sections], vectors: Vectors
) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """Keys and values of every layer, and the pooled embedding, which is the first layer's."""
    groups = next(iter(vectors.values())).shape[0]
    rows = [
        {
            name: [_filled(section, f"clip_{name}", group, vectors) for section in sections]
            for name, sections in one.items()
        }
        for group in range(groups)
        for one in captions
    ]
    states, pooled = denoiser.encode(rows)
    count = len(captions)
    by_group = batch_contexts([states[n * count : (n + 1) * count] for n in range(groups)])
    layers = len(denoiser.keys)
    keys = by_group[:layers] if groups > 1 else by_group * layers
    values = by_group[-layers:] if groups > 1 else keys
    return list(zip(keys, values, strict=True)), None if pooled is None else pooled[:count]


def _filled(section: Sequence[Any], encoder: str, group: int, vectors: Vectors) -> list[Any]:
    return [
        vectors[f"{token[0]}/{encoder}"][group, token[1]] if isinstance(token, tuple) else token
        for token in section
    ]
