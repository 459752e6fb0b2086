"""Reads a picture: which shape, colour, texture, background and style a small classifier sees in it."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .drawing import SIDE
from .world import BACKGROUNDS, COLOURS, SHAPES, STYLES, TEXTURES

QUESTIONS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "style": STYLES,
}


class Judge(nn.Module):
    """A convolutional network over pictures ``b 3 64 64`` in 0..1; one head of logits ``b answers`` per question."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 96)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, a), nn.SiLU(), nn.Conv2d(a, b, 3, padding=1),
                          nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1, stride=2))
            for a, b in itertools.pairwise(widths)
        )  # fmt: skip
        self.colours = nn.Conv2d(3, 32, 1)  # a second look without normalisation: flat colours
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * widths[-1] + 64, len(answers)) for name, answers in QUESTIONS.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        x = pictures * 2 - 1
        seen = self.stem(x)
        for stage in self.stages:
            seen = stage(seen)
        seen = nn.functional.silu(seen)
        flat = nn.functional.silu(self.colours(x))
        pooled = torch.cat((seen.mean((2, 3)), seen.amax((2, 3)), flat.mean((2, 3)), flat.amax((2, 3))), 1)
        return {name: head(pooled) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Verdict:
    """What was seen in each picture, per question, and how surely (probability of each answer, ``b answers``)."""

    answers: dict[str, list[str]]
    probabilities: dict[str, Tensor]

    def right(self, question: str, expected: str | list[str]) -> float:
        """The share of pictures of which ``question`` is answered as expected."""
        seen = self.answers[question]
        wanted = [expected] * len(seen) if isinstance(expected, str) else expected
        return sum(a == b for a, b in zip(seen, wanted, strict=True)) / len(seen)

    def chance_of(self, question: str, answer: str) -> Tensor:
        """The probability given to ``answer``, ``b``."""
        return self.probabilities[question][:, QUESTIONS[question].index(answer)]


@torch.no_grad()
def judged(judge: Judge, pictures: Tensor) -> Verdict:
    """The judge's reading of pictures ``b 3 h w`` in 0..1 with one thing each; other sizes are resampled to 64."""
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"the judge reads pictures of b 3 h w, not {tuple(pictures.shape)}.")
    if pictures.shape[-2:] != (SIDE, SIDE):
        pictures = nn.functional.interpolate(
            pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )
    probabilities = {name: logits.softmax(1) for name, logits in judge(pictures.float()).items()}
    answers = {
        name: [QUESTIONS[name][i] for i in each.argmax(1).tolist()] for name, each in probabilities.items()
    }
    return Verdict(answers, probabilities)
