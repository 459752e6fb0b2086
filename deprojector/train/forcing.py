"""What a deprojector sees of its own rows during training, and the loss.

Teacher forcing shows it the true rows, self-feeding its own; in between, each row is drawn at random. A model
that has only seen true rows drifts when it runs free (exposure bias: 0.105 against 0.80 in the author's logs).
"""

import torch
from torch import Tensor, nn

from ..base import Deprojector
from ..families import LstmConfig, VrnnConfig

WORD_WEIGHT, PAD_WEIGHT = 5.0, 1.0


def row_weights(end: Tensor, rows: int) -> Tensor:
    """``b rows``: 0 on the start row, 5 on words and end, 1 after the end, scaled to mean 1 (over all rows)."""
    number = torch.arange(rows, device=end.device)
    weights = torch.where(number[None] <= end[:, None], WORD_WEIGHT, PAD_WEIGHT)
    weights[:, 0] = 0.0
    return weights * (rows / weights.sum(1, keepdim=True))


def weighted_error(predicted: Tensor, true: Tensor, end: Tensor) -> Tensor:
    """Mean square of the weighted difference of hidden states ``b rows d``: the weights count squared."""
    weights = row_weights(end, true.shape[1])[..., None]
    return torch.mean((weights * (predicted - true)) ** 2)


def own_rows(seed: int, step: int, batch: int, rows: int, probability: float) -> Tensor:
    """Which rows (``b rows``) are the model's own; the same for a seed and step, whatever the process count."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.rand(batch, rows, generator=generator) < probability


class Forcing(nn.Module):
    """A deprojector under partly self-fed training: ``embeds b d, states b rows d, own b rows`` to ``b rows d``.

    LSTMs run row by row and learn through the rows that they feed themselves, as in the author's training. For
    the other families that would cost one pass per row, so they run free once without gradients, and learn in
    one pass over true rows and own ones. VRNN always runs free.
    """

    def __init__(self, model: Deprojector):
        super().__init__()
        self.model = model

    def forward(self, embeds: Tensor, states: Tensor, own: Tensor) -> Tensor:
        if isinstance(self.model.config, VrnnConfig) or not own.any():
            return self.model.teacher_forced(embeds, states)
        if isinstance(self.model.config, LstmConfig):
            return self._through_time(embeds, states, own)
        training = self.model.training
        made = self.model.eval().deproject(embeds)
        self.model.train(training)
        return self.model.teacher_forced(embeds, torch.where(own[..., None], made, states))

    def _through_time(self, embeds: Tensor, states: Tensor, own: Tensor) -> Tensor:
        (step,) = self.model.begin(embeds)
        row = step(None)
        made = [self.model.start_row(len(embeds)), row]
        for number in range(1, states.shape[1] - 1):
            row = step(torch.where(own[:, number, None, None], row, states[:, number : number + 1]))
            made.append(row)
        return torch.cat(made, dim=1)
