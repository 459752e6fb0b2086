"""Classifies an image: which shape, colour, texture, background and style a small network sees in it."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .drawing import SMALL
from .world import BACKGROUNDS, COLOURS, SHAPES, STYLES, TEXTURES, TUNED

QUESTIONS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "style": (*STYLES, *TUNED),
}


class Judge(nn.Module):
    """A convolutional network over images ``b 3 64 64`` in 0..1; one head of logits ``b answers`` per question."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 96)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, a), nn.SiLU(), nn.Conv2d(a, b, 3, padding=1),
                          nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1, stride=2))
            for a, b in itertools.pairwise(widths)
        )  # fmt: skip
        self.colours = nn.Conv2d(3, 32, 1)  # a second path without normalisation: flat colours
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * widths[-1] + 64, len(answers)) for name, answers in QUESTIONS.items()}
        )

    def pooled(self, images: Tensor) -> Tensor:
        """What the heads read, ``b 256``: means and maxima of the last layer, then of the colours."""
        x = images * 2 - 1
        seen = self.stem(x)
        for stage in self.stages:
            seen = stage(seen)
        seen = nn.functional.silu(seen)
        flat = nn.functional.silu(self.colours(x))
        return torch.cat((seen.mean((2, 3)), seen.amax((2, 3)), flat.mean((2, 3)), flat.amax((2, 3))), 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = self.pooled(images)
        return {name: head(pooled) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Verdict:
    """The answers for each image, per question, and the probability of each answer (``b answers``)."""

    answers: dict[str, list[str]]
    probabilities: dict[str, Tensor]

    def right(self, question: str, expected: str | list[str]) -> float:
        """The share of images of which ``question`` is answered as expected."""
        seen = self.answers[question]
        wanted = [expected] * len(seen) if isinstance(expected, str) else expected
        return sum(a == b for a, b in zip(seen, wanted, strict=True)) / len(seen)

    def chance_of(self, question: str, answer: str) -> Tensor:
        """The probability given to ``answer``, ``b``."""
        return self.probabilities[question][:, QUESTIONS[question].index(answer)]


def resized(images: Tensor) -> Tensor:
    """Images ``b 3 h w`` at the size that the network reads."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"the classifier reads images of b 3 h w, not {tuple(images.shape)}.")
    if images.shape[-2:] == (SMALL, SMALL):
        return images.float()
    return nn.functional.interpolate(
        images.float(), (SMALL, SMALL), mode="bilinear", antialias=True, align_corners=False
    )


@torch.no_grad()
def judged(judge: Judge, images: Tensor) -> Verdict:
    """The classification of images ``b 3 h w`` in 0..1 with one object each; other sizes are resampled to 64."""
    probabilities = {name: logits.softmax(1) for name, logits in judge(resized(images)).items()}
    answers = {
        name: [QUESTIONS[name][i] for i in each.argmax(1).tolist()] for name, each in probabilities.items()
    }
    return Verdict(answers, probabilities)


@torch.no_grad()
def features(judge: Judge, images: Tensor) -> Tensor:
    """``b 96``: the mean of the last layer over the image, in which sets of images are compared (Frechet distance)."""
    return judge.pooled(resized(images))[:, : judge.stages[-1][-1].out_channels]  # type: ignore[index, union-attr]
