"""What may be done to hidden states (``b rows d``) after the end token of the text.

The end row of a true encoding is the pooled embedding itself, so a deprojected text ends at the row most
similar to its input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def find_end(states: Tensor, embeds: Tensor) -> Tensor:
    """For each sample the row ``>= 1`` most similar to its embedding ``b d`` by cosine, as ``b`` row numbers."""
    if states.shape[1] < 2:
        return torch.zeros(len(states), dtype=torch.long, device=states.device)
    similarity = F.cosine_similarity(states[:, 1:].float(), embeds[:, None].float(), dim=-1)
    return similarity.argmax(dim=1) + 1


def after(states: Tensor, end: Tensor) -> Tensor:
    """A mask ``b rows 1``: 1 after the end row, 0 up to it."""
    rows = torch.arange(states.shape[1], device=states.device)
    return (rows[None] > end[:, None]).to(states.dtype)[..., None]


def with_noise(states: Tensor, end: Tensor, weight: float, seed: int) -> Tensor:
    """After the end ``(1 - weight)`` of the states plus ``weight`` of standard normal noise.

    A seed gives the same noise on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(states.shape[1:], generator=generator).to(states)
    return torch.lerp(states, noise.expand_as(states), weight * after(states, end))


def with_row(states: Tensor, end: Tensor, weight: float, row: Tensor) -> Tensor:
    """After the end ``(1 - weight)`` of the states plus ``weight`` of one row ``d``, the empty text's."""
    return torch.lerp(states, row.to(states).expand_as(states), weight * after(states, end))


def faded(states: Tensor, end: Tensor, weight: float) -> Tensor:
    """After the end ``(1 - weight)`` of the states."""
    return states * (1 - weight * after(states, end))


def with_exact_end(states: Tensor, end: Tensor, embeds: Tensor) -> Tensor:
    """The end row replaced by the embedding ``b d``, which it is in a true encoding; row 0 is kept."""
    rows = torch.arange(states.shape[1], device=states.device)
    at_end = (rows[None] == end[:, None]) & (rows[None] > 0)
    return torch.where(at_end[..., None], embeds[:, None].to(states), states)
