"""Training a deprojector: batches, schedule, evaluation, early stopping, checkpoints, one process or several.

The result does not depend on the number of processes: order, coins and batches are those of the joint batch, of
which every process takes its share.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .base import Deprojector
from .errors import DeprojectorError
from .examples import Examples
from .forcing import Forcing, coins, weighted_error

SCHEDULES = ("teacher", "scheduled", "self-fed")


@dataclass(frozen=True)
class Recipe:
    """How to train; ``batch`` is that of all processes together."""

    steps: int = 2000
    batch: int = 100
    learning_rate: float = 1e-3
    schedule: str = "scheduled"
    ramp: tuple[float, float] = (
        0.1,
        0.6,
    )  # scheduled: from all true rows to all own ones, as shares of steps
    noise: float = 0.0  # standard deviation added to the embeddings
    clip: float = 1.0  # largest gradient norm; 0 for none
    evaluate_every: int = 100
    patience: int = 10  # evaluations without a better free-running error before stopping; 0 for never
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise DeprojectorError(f"unknown schedule {self.schedule!r}; known are {', '.join(SCHEDULES)}.")
        if min(self.steps, self.batch, self.evaluate_every) < 1:
            raise DeprojectorError("steps, batch and evaluate_every must be at least 1.")

    def own_share(self, step: int) -> float:
        """The share of the model's own rows at a step."""
        if self.schedule != "scheduled":
            return float(self.schedule == "self-fed")
        start, end = self.ramp
        done = step / self.steps
        return min(max((done - start) / max(end - start, 1e-9), 0.0), 1.0)

    def rate(self, step: int) -> float:
        """The learning rate at a step: a short rise, then a cosine down to a twentieth."""
        rise = max(self.steps // 50, 1)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * (0.05 + 0.475 * (1 + math.cos(math.pi * step / self.steps)))


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


class Trainer:
    """One training run. In a process group every process makes one with the same arguments."""

    def __init__(
        self,
        model: Deprojector,
        train: Examples,
        test: Examples,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        checkpoint: Path | None = None,
    ):
        self.model, self.train, self.test, self.recipe = model.to(device), train, test, recipe
        self.device, self.checkpoint = device, checkpoint
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if recipe.batch % self.world:
            raise DeprojectorError(f"a batch of {recipe.batch} cannot be shared by {self.world} processes.")
        self.batch = min(recipe.batch, len(train) // self.world * self.world)
        if not self.batch or not len(test):
            raise DeprojectorError(f"{len(train)} training and {len(test)} test examples are too few.")
        self.forcing: Any = Forcing(self.model)
        if self.world > 1:
            self.forcing = torch.nn.parallel.DistributedDataParallel(self.forcing)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate)
        self.step = 0
        self.history = History()
        self.best: dict[str, Tensor] = {}
        if checkpoint is not None and checkpoint.is_file():
            self._resume(checkpoint)

    def run(self, on_step: Callable[[int, History], None] | None = None) -> History:
        """Train until the steps are done or the free-running error has stopped falling; the model ends up at its best.

        ``on_step`` is called after every step; what it raises ends the run, which resumes from its checkpoint.
        """
        if not self.history.scores:
            self._evaluate()
        while self.step < self.recipe.steps and not self.exhausted:
            self.history.losses.append(self._one_step())
            self.step += 1
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps:
                self._evaluate()
                self._save()
            if on_step:
                on_step(self.step, self.history)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    @property
    def exhausted(self) -> bool:
        """Whether the free-running error has not fallen for ``patience`` evaluations."""
        scores = [score.free_weighted for _, score in self.history.scores]
        patience = self.recipe.patience
        changing = self.recipe.schedule == "scheduled" and self.recipe.own_share(self.step) < 1
        if not patience or changing:  # while the schedule changes the task, a stand-still means nothing
            return False
        return len(scores) > patience and min(scores[-patience:]) > min(scores)

    def _one_step(self) -> float:
        recipe = self.recipe
        embeds, states, end = self.train.batch(self._chosen(), self.device)
        own = self._share(
            coins(recipe.seed, self.step, self.batch, states.shape[1], recipe.own_share(self.step))
        )
        if recipe.noise:
            generator = torch.Generator().manual_seed(recipe.seed * 7919 + self.step)
            noise = torch.randn(self.batch, embeds.shape[1], generator=generator)
            embeds = embeds + recipe.noise * self._share(noise).to(embeds)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        self.model.train()
        self.optimizer.zero_grad()
        loss = weighted_error(self.forcing(embeds, states, own.to(self.device)), states, end)
        loss.backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], recipe.clip)
        self.optimizer.step()
        self.model.eval()
        joint = loss.detach()
        if self.world > 1:
            dist.all_reduce(joint)
        value = joint.item() / self.world
        if not math.isfinite(value):
            raise DeprojectorError(
                f"the loss is not finite any more at step {self.step}: choose a smaller learning rate."
            )
        return value

    def _chosen(self) -> Tensor:
        """This process's examples of the step: every epoch is one shuffle, cut into batches."""
        per_epoch = len(self.train) // self.batch
        epoch, place = divmod(self.step, per_epoch)
        generator = torch.Generator().manual_seed(self.recipe.seed * 104_729 + epoch)
        order = torch.randperm(len(self.train), generator=generator)
        return self._share(order[place * self.batch : (place + 1) * self.batch])

    def _share(self, joint: Tensor) -> Tensor:
        return joint.chunk(self.world)[self.rank]

    def _evaluate(self) -> None:
        scores = evaluate(self.model, self.test, self.device)
        self.history.scores.append((self.step, scores))
        if self.history.best == self.history.scores[-1]:
            self.best = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}

    def _save(self) -> None:
        """Everything a later run needs to go on as if it had not stopped."""
        if self.checkpoint is None or self.rank:
            return
        tensors = {f"best.{key}": value for key, value in self.best.items()}
        tensors |= {f"model.{key}": value.detach().cpu() for key, value in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value.detach().cpu() for name, value in state.items()}
        scratch = self.checkpoint.with_name(f"{self.checkpoint.name}.{os.getpid()}.tmp")
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({key: value.contiguous() for key, value in tensors.items()}, scratch, self._metadata())
            scratch.replace(self.checkpoint)
        finally:
            scratch.unlink(missing_ok=True)

    def _identity(self) -> str:
        """What a checkpoint must agree in; more steps or patience may be given to a run that goes on."""
        fixed = {k: v for k, v in asdict(self.recipe).items() if k not in ("evaluate_every", "patience")}
        sizes = len(self.train), len(self.test), float(self.train.embeds.double().sum())
        return json.dumps([fixed, self.model.config.as_json(), sizes])

    def _metadata(self) -> dict[str, str]:
        history = [self.history.losses, self.history.scores]
        return {"step": str(self.step), "history": json.dumps(history), "identity": self._identity()}

    def _resume(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata["identity"] != self._identity():
            raise DeprojectorError(
                f"{path.name} belongs to a run with another recipe, model or captions: choose another name, or delete it."
            )
        self.step = int(metadata["step"])
        losses, scores = json.loads(metadata["history"])
        self.history = History(losses, [(step, Scores(*values)) for step, values in scores])
        self.model.load_state_dict(_below("model.", tensors))
        self.best = _below("best.", tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below("adam.", tensors).items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
