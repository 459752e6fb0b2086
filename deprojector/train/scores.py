"""Held-out errors of a deprojector, and the curve of a run."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..base import Deprojector
from .examples import Examples
from .forcing import weighted_error


class Scores(NamedTuple):
    """Errors on held-out examples, weighted and plain, and the mean cosine of words and end."""

    forced_weighted: float
    forced: float
    free_weighted: float
    free: float
    free_cosine: float


@dataclass
class History:
    """The curve of a run: training loss per step, scores per evaluation."""

    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, Scores]] = field(default_factory=list)

    @property
    def best(self) -> tuple[int, Scores] | None:
        """The evaluation with the smallest free-running weighted error."""
        return min(self.scores, key=lambda entry: entry[1].free_weighted) if self.scores else None


@torch.no_grad()
def evaluate(model: Deprojector, examples: Examples, device: torch.device | str, batch: int = 100) -> Scores:
    """Scores over all examples."""
    totals = torch.zeros(5, dtype=torch.float64)
    for chosen in torch.arange(len(examples)).split(batch):
        embeds, states, end = examples.batch(chosen, device)
        forced, free = model.teacher_forced(embeds, states), model.deproject(embeds)
        number = torch.arange(states.shape[1], device=end.device)[None]
        words = (number > 0) & (number <= end[:, None])
        cosine = F.cosine_similarity(free, states, dim=-1)
        batch_scores = [
            weighted_error(forced, states, end),
            F.mse_loss(forced, states),
            weighted_error(free, states, end),
            F.mse_loss(free, states),
            ((cosine * words).sum(1) / words.sum(1)).mean(),
        ]
        totals += torch.stack([score.double().cpu() for score in batch_scores]) * len(chosen)
    return Scores(*(totals / len(examples)).tolist())
