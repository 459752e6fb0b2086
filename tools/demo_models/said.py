"""The prompts that the demo models' diffusion models are trained with."""

import random

import torch
from blockwork.demo_models import captions
from torch import Tensor

from .training import HERE, autocast

EACH = 3  # captions of a scene
EMPTY = 0.1  # of the captions are left out, for classifier-free guidance
UNKNOWN = 0.06  # of the captions have unknown words


class Said:
    """The hidden states of captions of ``seen`` in the demo models' CLIP, computed once."""

    def __init__(self, seen: list, chance: random.Random):
        said = [captions.caption(scene, chance, UNKNOWN) for _ in range(EACH) for scene in seen]
        self.count = len(seen)
        self.states = states_of([*said, ""])  # the empty one is the last

    @property
    def empty(self) -> Tensor:
        """``1 rows 128``."""
        return self.states[-1:]

    def __call__(self, indices: Tensor) -> Tensor:
        """A caption of each scene drawn by chance, or the empty one: ``n rows 128``, bfloat16."""
        chosen = indices + self.count * torch.randint(EACH, indices.shape)
        lost = torch.rand(len(indices)) < EMPTY
        return self.states[torch.where(lost, len(self.states) - 1, chosen)]


@torch.no_grad()
def states_of(said: list[str]) -> Tensor:
    """The hidden states of texts in the demo models' CLIP (``n rows 128``, bfloat16), on the training's device."""
    from .clip import load_text

    text, vocabulary = load_text()
    text.to(HERE.device)
    out = []
    with autocast():
        for start in range(0, len(said), 128):
            rows = vocabulary.rows(said[start : start + 128])[0]
            out.append(text.text_model(rows.to(HERE.device)).bfloat16())
    return torch.cat(out)
