"""What a deprojector sees of its own past while it learns, and what its errors cost.

Teacher forcing shows it the true rows, self-feeding its own; in between, every row is drawn by a coin. A model
that has only seen true rows drifts when it runs free (exposure bias: 0.105 against 0.80 in the original).
"""

import torch
from torch import Tensor, nn

from .base import Deprojector
from .transformer import TransformerDeprojector
from .vrnn import VrnnDeprojector

WORD_WEIGHT, PAD_WEIGHT = 5.0, 1.0


def row_weights(end: Tensor, rows: int) -> Tensor:
    """``b rows``: 0 on the start row, 5 on words and end, 1 behind the end, scaled to mean 1 (over all rows)."""
    number = torch.arange(rows, device=end.device)
    weights = torch.where(number[None] <= end[:, None], WORD_WEIGHT, PAD_WEIGHT)
    weights[:, 0] = 0.0
    return weights * (rows / weights.sum(1, keepdim=True))


def weighted_error(predicted: Tensor, true: Tensor, end: Tensor) -> Tensor:
    """Mean square of the weighted difference of hidden states ``b rows d``: the weights count squared."""
    weights = row_weights(end, true.shape[1])[..., None]
    return torch.mean((weights * (predicted - true)) ** 2)


def coins(seed: int, step: int, batch: int, rows: int, share: float) -> Tensor:
    """Which rows (``b rows``) are the model's own; the same for a seed and step, however many processes draw."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.rand(batch, rows, generator=generator) < share


class Forcing(nn.Module):
    """A deprojector under partly self-fed training: ``embeds b d, states b rows d, own b rows`` to ``b rows d``.

    Recurrent families run row by row and learn through what they feed themselves, as the original's do. For family T
    that would cost one pass per row, so it runs free once without gradients, and learns in one pass over true
    rows and own ones. VRNN always runs free.
    """

    def __init__(self, model: Deprojector):
        super().__init__()
        self.model = model

    def forward(self, embeds: Tensor, states: Tensor, own: Tensor) -> Tensor:
        if isinstance(self.model, VrnnDeprojector) or not own.any():
            return self.model.teacher_forced(embeds, states)
        if isinstance(self.model, TransformerDeprojector):
            made = self.model.deproject(embeds)
            return self.model.teacher_forced(embeds, torch.where(own[..., None], made, states))
        return self._through_time(embeds, states, own)

    def _through_time(self, embeds: Tensor, states: Tensor, own: Tensor) -> Tensor:
        recursion = self.model.recursion(embeds)
        row = recursion.step(None)
        made = [row[0]]
        for number in range(1, states.shape[1] - 1):
            seen = torch.where(own[:, number, None, None], row[0], states[:, number : number + 1])
            row = recursion.step(seen[None])
            made.append(row[0])
        return torch.cat([self.model.start_row(len(embeds)), *made], dim=1)
