"""Training a deprojector: batches, schedule, evaluation, early stopping, checkpoints, one process or several.

The result does not depend on the number of processes: order, random rows and batches are those of the joint
batch, of which every process takes its share.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..base import Deprojector
from ..errors import DeprojectorError
from ..files import save, write
from .examples import Examples
from .forcing import Forcing, own_rows, weighted_error
from .scores import History, Scores, evaluate

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
    patience: int = 10  # evaluations without a smaller free-running error before stopping; 0 for never
    seed: int = 0
    part: int = 0  # examples trained on at a time, each part until it stops early; 0 for all together
    snapshot_every: int = 0  # steps between stored copies of the model; 0 for none

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise DeprojectorError(f"Unknown schedule {self.schedule!r}. Available: {', '.join(SCHEDULES)}.")
        if min(self.steps, self.batch, self.evaluate_every) < 1:
            raise DeprojectorError("steps, batch and evaluate_every must be at least 1.")
        if min(self.patience, self.part, self.snapshot_every, self.noise, self.clip) < 0:
            raise DeprojectorError("patience, part, snapshot_every, noise and clip must not be negative.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise DeprojectorError(f"learning_rate must be positive and finite, got {self.learning_rate}.")
        if self.part and not self.patience:
            raise DeprojectorError(
                "Training part by part needs patience: each part ends when it stops early."
            )

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


class Trainer:
    """One training run. In a process group every process makes one with the same arguments.

    ``checkpoint`` is where the run is stored and resumed from; ``snapshots`` the folder of its stored copies.
    """

    def __init__(
        self,
        model: Deprojector,
        train: Examples,
        test: Examples,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        checkpoint: Path | None = None,
        snapshots: Path | None = None,
    ):
        self.model, self.train, self.test, self.recipe = model.to(device), train, test, recipe
        self.device, self.checkpoint, self.snapshots = device, checkpoint, snapshots
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if recipe.batch % self.world:
            raise DeprojectorError(f"A batch of {recipe.batch} cannot be shared by {self.world} processes.")
        size = recipe.part or len(train)
        starts = range(0, max(len(train) - size, 0) + 1, size)
        # a rest smaller than a part belongs to the last one
        self.parts = [(start, len(train) if start == starts[-1] else start + size) for start in starts]
        self.batch = min(
            recipe.batch, min(end - start for start, end in self.parts) // self.world * self.world
        )
        if not self.batch or not len(test):
            raise DeprojectorError(f"{len(train)} training and {len(test)} test examples are too few.")
        self.forcing: Any = Forcing(self.model)
        if self.world > 1:
            self.forcing = torch.nn.parallel.DistributedDataParallel(self.forcing)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate)
        self.step = 0
        self.part = 0
        self.part_start = 0  # the step at which the part began
        self.history = History()
        self.best: dict[str, Tensor] = {}
        self.best_of_part: dict[str, Tensor] = {}
        if checkpoint is not None and checkpoint.is_file():
            self._resume(checkpoint)

    def run(self, on_step: Callable[[int, History], None] | None = None) -> History:
        """Train until the steps are done or every part has stopped early; the model ends at its best evaluation.

        ``on_step`` is called after every step; what it raises ends the run, which resumes from its checkpoint.
        """
        if not self.history.scores:
            self._evaluate()
        while self.step < self.recipe.steps and not self._finished():
            self.history.losses.append(self._one_step())
            self.step += 1
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps:
                self._evaluate()
                self._save()
            if self.recipe.snapshot_every and self.step % self.recipe.snapshot_every == 0:
                self._snapshot(f"step_{self.step:06}")
            if on_step:
                on_step(self.step, self.history)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    def _finished(self) -> bool:
        """Whether the last part has stopped early; goes on to the next part when one has."""
        if not self.exhausted:
            return False
        if self.part == len(self.parts) - 1:
            return True
        self.model.load_state_dict(self.best_of_part)
        self._snapshot(f"part_{self.part + 1:02}")
        self.part, self.part_start = self.part + 1, self.step
        self.optimizer.state.clear()
        self._evaluate()
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the free-running error has not become smaller for ``patience`` evaluations of this part."""
        scores = [score.free_weighted for step, score in self.history.scores if step >= self.part_start]
        patience = self.recipe.patience
        changing = self.recipe.schedule == "scheduled" and self.recipe.own_share(self.step) < 1
        if not patience or changing:  # while the schedule changes the task, errors cannot be compared
            return False
        return len(scores) > patience and min(scores[-patience:]) > min(scores)

    def _one_step(self) -> float:
        recipe = self.recipe
        embeds, states, end = self.train.batch(self._chosen(), self.device)
        own = self._share(
            own_rows(recipe.seed, self.step, self.batch, states.shape[1], recipe.own_share(self.step))
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
                f"The loss is no longer finite at step {self.step}. Choose a smaller learning rate."
            )
        return value

    def _chosen(self) -> Tensor:
        """This process's examples of the step: every epoch is one shuffle of the part, cut into batches."""
        start, end = self.parts[self.part]
        epoch, place = divmod(self.step - self.part_start, (end - start) // self.batch)
        generator = torch.Generator().manual_seed(self.recipe.seed * 104_729 + self.part * 7_368_787 + epoch)
        order = start + torch.randperm(end - start, generator=generator)
        return self._share(order[place * self.batch : (place + 1) * self.batch])

    def _share(self, joint: Tensor) -> Tensor:
        return joint.chunk(self.world)[self.rank]

    def _evaluate(self) -> None:
        self.history.scores.append((self.step, evaluate(self.model, self.test, self.device)))
        latest = self.history.scores[-1]
        part = [entry for entry in self.history.scores if entry[0] >= self.part_start]
        if latest not in (self.history.best, History([], part).best):
            return
        state = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
        self.best_of_part = state
        if self.history.best == latest:
            self.best = state

    def _snapshot(self, name: str) -> None:
        """Store a copy of the model under a name; copies stored before an interruption are kept."""
        if self.snapshots is None or self.rank:
            return
        path = self.snapshots / f"{name}.safetensors"
        if not path.exists():
            save(self.model, path)

    def _save(self) -> None:
        """Store everything that a later run needs to continue as if there had been no interruption."""
        if self.checkpoint is None or self.rank:
            return
        tensors = {f"best.{key}": value for key, value in self.best.items()}
        tensors |= {f"part.{key}": value.clone() for key, value in self.best_of_part.items()}
        tensors |= {f"model.{key}": value.detach().cpu() for key, value in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value.detach().cpu() for name, value in state.items()}
        write(tensors, self.checkpoint, self._metadata())

    def _identity(self) -> str:
        """What a checkpoint must agree in. A run may be resumed with more steps, and other evaluations."""
        free = ("steps", "evaluate_every", "patience", "snapshot_every")
        fixed = {name: value for name, value in asdict(self.recipe).items() if name not in free}
        sizes = len(self.train), len(self.test), float(self.train.embeds.double().sum())
        return json.dumps([fixed, self.model.config.as_json(), sizes])

    def _metadata(self) -> dict[str, str]:
        place = [self.step, self.part, self.part_start]
        history = [self.history.losses, self.history.scores]
        return {
            "place": json.dumps(place),
            "history": json.dumps(history),
            "identity": self._identity(),
        }

    def _resume(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise DeprojectorError(f"{path.name} is damaged ({error}). Delete it to start again.") from error
        if metadata.get("identity") != self._identity():
            raise DeprojectorError(
                f"{path.name} belongs to a run with another recipe, model or captions. Choose another name, or delete it."
            )
        self.step, self.part, self.part_start = json.loads(metadata["place"])
        losses, scores = json.loads(metadata["history"])
        self.history = History(losses, [(step, Scores(*values)) for step, values in scores])
        self.model.load_state_dict(_below("model.", tensors))
        self.best, self.best_of_part = _below("best.", tensors), _below("part.", tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below("adam.", tensors).items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
