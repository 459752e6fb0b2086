"""Trains token embeddings: the loop, its random numbers, its checkpoint. What the loss is, the caller says.

The random numbers of a step depend on the seed and the step alone, so that a run that is resumed from its checkpoint
does the same as one that was never stopped.
"""

import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..blocks.synced import write_synced
from .density import WordDensity

OPTIMIZERS: dict[str, Any] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
    "RMSprop": torch.optim.RMSprop,
}
LOSSES: dict[str, type[nn.Module]] = {
    "MSE": nn.MSELoss,
    "L1": nn.L1Loss,
    "Huber": nn.HuberLoss,
    "SmoothL1": nn.SmoothL1Loss,
}
CHECKPOINT_EVERY = 100  # steps
PRIMES = (1_000_003, 7_368_787)  # that keep the seeds of steps and of epochs apart
Vectors = Mapping[str, Tensor]  # by concept and text encoder: ``groups vectors dim``


class TrainingError(ValueError):
    """A training that cannot be done; the message says what was given and what is expected."""


@dataclass(frozen=True)
class Recipe:
    """How to train. ``density`` is the weight of the density term, ``bandwidth`` its kernels' (0: the words' own)."""

    steps: int = 500
    batch_size: int = 1
    grad_accumulation_steps: int = 1
    learning_rate: float = 5e-3
    optimizer: str = "AdamW"
    loss_function: str = "MSE"
    seed: int = 0
    density: float = 0.01
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.grad_accumulation_steps) < 1:
            raise TrainingError("Steps, batch size and gradient accumulation must be at least 1.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise TrainingError(f"The learning rate must be positive and finite, got {self.learning_rate}.")
        for name, value in (("density weight", self.density), ("bandwidth", self.bandwidth)):
            if not (math.isfinite(value) and value >= 0):
                raise TrainingError(f"The {name} must be 0 or more, got {value}.")
        for name, table in ((self.optimizer, OPTIMIZERS), (self.loss_function, LOSSES)):
            if name not in table:
                raise TrainingError(f"Unknown option {name!r}. Available: {', '.join(table)}.")

    @property
    def identity(self) -> str:
        """What makes two runs one: all but the number of steps."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "steps"})


LossOf = Callable[[Vectors, Sequence[int], torch.Generator], Tensor]


class Trainer:
    """One run. ``start`` are the embeddings it starts from, ``count`` the number of images.

    ``loss_of(vectors, images, generator)`` is the loss of some images, by number. ``words`` are the densities that the
    embeddings of each key are drawn to. ``checkpoint`` is where the run is stored and resumed from; a stored run of more
    steps than asked for is left alone. ``scale`` multiplies the loss before it goes backward, for models that compute in fp16.
    """

    def __init__(
        self,
        start: Vectors,
        loss_of: LossOf,
        count: int,
        recipe: Recipe,
        words: Mapping[str, WordDensity] | None = None,
        checkpoint: Path | None = None,
        scale: float = 1.0,
    ):
        self.vectors = {key: nn.Parameter(value.detach().float().clone()) for key, value in start.items()}
        self.loss_of, self.recipe, self.words, self.scale = loss_of, recipe, words or {}, scale
        self.optimizer = OPTIMIZERS[recipe.optimizer](list(self.vectors.values()), lr=recipe.learning_rate)
        self.losses: list[float] = []
        self.checkpoint, self.saved = checkpoint, 0
        self.order = lru_cache(4)(lambda epoch: self._shuffled(epoch, count))
        self.count = count
        if checkpoint is not None and checkpoint.is_file():
            self._resume(checkpoint)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def run(self, on_step: Callable[["Trainer"], None] | None = None) -> None:
        """Train until the steps are done. What ``on_step`` raises ends the run, which resumes from its checkpoint."""
        try:
            while self.step < self.recipe.steps:
                self.losses.append(self._one_step())
                if self.step % CHECKPOINT_EVERY == 0:
                    self._save()
                if on_step:
                    on_step(self)
        finally:
            self._save()

    def _one_step(self) -> float:
        recipe, total = self.recipe, 0.0
        self.optimizer.zero_grad()
        for part in range(recipe.grad_accumulation_steps):
            number = self.step * recipe.grad_accumulation_steps + part
            generator = torch.Generator().manual_seed((recipe.seed * PRIMES[0] + number) % 2**63)
            loss = self.loss_of(self.vectors, self._chosen(number), generator)
            (loss * (self.scale / recipe.grad_accumulation_steps)).backward()
            total += loss.item() / recipe.grad_accumulation_steps
        for one in self.vectors.values():
            if one.grad is not None:
                one.grad /= self.scale
        if recipe.density and self.words:
            (recipe.density * self.unlikeness()).backward()
        if not math.isfinite(total) or not all(
            one.grad is None or bool(one.grad.isfinite().all()) for one in self.vectors.values()
        ):
            raise TrainingError(
                f"The loss is no longer finite at step {self.step + 1}. Choose a smaller learning rate, or train in fp32."
            )
        self.optimizer.step()
        return total

    def unlikeness(self) -> Tensor:
        """``-log p(v) / width`` of the tokens under the words' density, the mean of all."""
        values = [
            -words(self.vectors[key].flatten(0, 1)).cpu() / words.width for key, words in self.words.items()
        ]
        return torch.cat(values).mean()

    def _chosen(self, number: int) -> list[int]:
        """The images of a batch: one epoch after another, each in its own order."""
        size = self.recipe.batch_size
        places = range(number * size, (number + 1) * size)
        return [self.order(place // self.count)[place % self.count] for place in places]

    def _shuffled(self, epoch: int, count: int) -> list[int]:
        seed = (self.recipe.seed * PRIMES[1] + epoch + 1) % 2**63
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    def _save(self) -> None:
        if self.checkpoint is None or self.saved == self.step:
            return
        tensors = {f"vectors.{key}": value.detach() for key, value in self.vectors.items()}
        state = self.optimizer.state_dict()["state"]
        tensors |= {
            f"optimizer.{number}.{name}": value
            for number, values in state.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_name(f".{uuid.uuid4().hex}.part")
        try:
            write_synced({key: value.cpu().contiguous() for key, value in tensors.items()}, part)
            part.replace(self.checkpoint)
        finally:
            part.unlink(missing_ok=True)
        self.saved = self.step

    def _resume(self, checkpoint: Path) -> None:
        try:
            with safe_open(checkpoint, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        except SafetensorError as error:
            raise TrainingError(
                f"The checkpoint of this run cannot be read ({error}): {checkpoint}. Delete it to start the run again."
            ) from error
        if len(tensors["losses"]) > self.recipe.steps:
            self.checkpoint = None
            return
        state = self.optimizer.state_dict()
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "vectors":
                self.vectors[name].data.copy_(value)
            elif kind == "optimizer":
                number, _, name = name.partition(".")
                state["state"].setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict(state)
        self.losses = tensors["losses"].tolist()
        self.saved = self.step
