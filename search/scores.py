"""Scores of images: similarity of embeddings, distance of pixels, averages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import SearchError


def cosine(images: Tensor, others: Tensor) -> float:
    """The mean cosine similarity of embeddings ``n d`` with ``m d``: with the average direction of the others, -1 to 1."""
    if images.shape[-1] != others.shape[-1]:
        raise SearchError(
            f"The embeddings have {images.shape[-1]} and {others.shape[-1]} numbers, so they are not of one model. Use the "
            "image encoder and the text encoder of the same CLIP model, both with their projection."
        )
    normal = torch.nn.functional.normalize(images.float(), dim=-1)
    wanted = torch.nn.functional.normalize(others.float(), dim=-1)
    return float((normal @ wanted.T).mean())


def pixel_distance(images: Tensor, reference: Tensor) -> float:
    """The root mean square difference of images ``n h w c`` in 0..1, pair by pair; one reference serves for all."""
    if images.shape[1:3] != reference.shape[1:3]:
        sizes = [f"{image.shape[2]} x {image.shape[1]}" for image in (images, reference)]
        raise SearchError(f"The images are {sizes[0]} pixels and the reference {sizes[1]}. Use one size.")
    if len(reference) not in (1, len(images)):
        raise SearchError(
            f"{len(images)} images are compared with {len(reference)}. Use one reference, or one per image."
        )
    return float((images[..., :3].float() - reference[..., :3].float()).square().mean().sqrt())


def weighted_sum(scores: Sequence[Sequence[float]], weights: Sequence[float]) -> float:
    """The sum of the mean of each list of scores times its weight."""
    return sum(
        weight * sum(values) / len(values) for values, weight in zip(scores, weights, strict=True) if values
    )


def parse_wanted(text: str, questions: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """What a classifier is to see, ``style = ink, shape = star``; SearchError lists what it can answer."""
    wanted: dict[str, str] = {}
    for item in filter(str.strip, text.split(",")):
        name, equals, answer = (part.strip().lower() for part in item.partition("="))
        if not equals or answer not in questions.get(name, ()):
            choices = "; ".join(
                f"{question}: {', '.join(answers)}" for question, answers in questions.items()
            )
            raise SearchError(
                f"{item.strip()[:60]!r} is not a valid answer. Available: {choices}. Write style = ink."
            )
        wanted[name] = answer
    if not wanted:
        raise SearchError(
            "No answers are given. Write what the images should show, as in style = ink, shape = star."
        )
    return wanted
