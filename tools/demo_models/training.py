"""What every training shares: folders, images, a resumable loop with a log, on CPU, one GPU or several (torchrun)."""

import csv
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from blockwork.demo_models import drawing, files, world
from refhost import layout
from safetensors.torch import load_file, save_file

from .muon import Muon

SCRATCH = layout.ROOT / ".demo_models"
M = TypeVar("M", bound=torch.nn.Module)
PAUSE = 60.0  # seconds between two checkpoints
CHANNELS = 8  # a layer as narrow as this reads or writes the image: not for Muon
CORES = 2  # the minutes of a training on a CPU are minutes of so many cores
BIGGER = 8  # a batch on a GPU is so many times as large


# The files of a complete set.
COMPLETE = (
    "vae", "clip", "clip_vision", "judge", "unet", "unet_ink", "unet_night", "stage1", "stage2",
    "embeddings/atelier_gem", "embeddings/atelier_tile", "deprojector/atelier_transformer",
    *(f"deprojector/atelier_{kind}_{layers}" for kind in ("lstm", "kept") for layers in (1, 2, 3)),
    *(f"deprojector/atelier_{kind}_{layers}" for kind in ("wide", "wider") for layers in (1, 2)),
)  # fmt: skip


@dataclass
class Place:
    """Where a training runs and keeps its files: ``checkpoints``, ``weights`` and ``logs`` below ``folder``."""

    folder: Path = SCRATCH
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    ranks: int = 1

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def batch(self, size: int) -> int:
        """The batch of one process."""
        return size * BIGGER // self.ranks if self.device.type == "cuda" else size

    def seconds(self) -> float:
        """A clock: seconds of computing on a CPU, which do not pass while the process waits, else of time."""
        return time.process_time() / CORES if self.device.type == "cpu" else time.monotonic()


HERE = Place()


def settle(folder: Path, device: str) -> None:
    """Train in ``folder`` on ``device``; under torchrun every process takes its own GPU."""
    HERE.folder = folder
    HERE.ranks, HERE.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if HERE.ranks > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    HERE.device = (
        torch.device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if device == "cuda"
        else torch.device(device)
    )
    files.use(HERE.weights)


def autocast() -> torch.autocast:
    """Bfloat16 where it is safe; without a cache of weights, which CUDA graphs cannot have."""
    return torch.autocast(HERE.device.type, torch.bfloat16, cache_enabled=False)


def replayed(module: M, *like: torch.Tensor) -> M:
    """``module`` as CUDA graphs of its forward and backward pass, for inputs ``like`` these; itself without a GPU.

    A small network waits for the launches of its kernels otherwise.
    """
    if HERE.device.type != "cuda":
        return module
    with autocast():
        graphed: Any = torch.cuda.make_graphed_callables(module, like, allow_unused_input=True)
    return graphed


def scenes(count: int, seed: int, style: str | None = None, **how) -> list:
    """``count`` scenes, in one style if it is given; the same seed gives the same scenes."""
    chance = random.Random(seed)
    return [world.draw_scene(chance, style=style, **how) for _ in range(count)]


def images(of: list, side: int = drawing.SIDE) -> torch.Tensor:
    """The scenes drawn, ``n 3 side side`` bytes."""
    out = torch.empty(len(of), 3, side, side, dtype=torch.uint8)
    for start in range(0, len(of), 256):
        out[start : start + 256] = (drawing.draw_all(of[start : start + 256], side) * 255).round().byte()
    return out


def signed(batch: torch.Tensor) -> torch.Tensor:
    """Bytes 0..255 as floats -1..1, on the device of the training."""
    return batch.to(HERE.device).float() / 127.5 - 1


def batches(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless epochs of shuffled indices, other ones in each process."""
    generator = torch.Generator().manual_seed(seed + 7919 * HERE.rank)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].view(-1, size)


def train(
    name: str,
    module: M,
    loss_of: Callable[[float], torch.Tensor],
    minutes: float,
    rate: float,
    warmup: int = 100,
    decay: float = 0.999,
    muon: bool = False,
) -> M:
    """Train ``module`` with AdamW under a cosine rate and return its moving average.

    ``loss_of`` gets the share of the training that is over, 0..1. ``minutes`` are of two cores on a CPU, whatever else the
    machine does, or of a GPU. With ``muon`` that takes the matrices and kernels at the same rate, but not those at the
    image's own channels. A run that was stopped resumes from its last checkpoint; a finished one is not trained again.
    """
    here = HERE
    checkpoint = here.folder / "checkpoints" / f"{name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    here.logs.mkdir(parents=True, exist_ok=True)
    module.to(here.device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    apart = [p for p in parameters if muon and p.ndim > 1 and min(p.shape[:2]) > CHANNELS]
    rest = [p for p in parameters if not any(p is other for other in apart)]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, foreach=True)
    ]
    if muon:
        optimisers.append(Muon(apart, lr=rate))
    average = {key: value.detach().clone() for key, value in module.state_dict().items()}
    step, spent, log, recent = 0, 0.0, [], []
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True, map_location=here.device)
        module.load_state_dict(saved["module"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        average, step, spent, log = saved["average"], saved["step"], saved["spent"], saved["log"]
    started, saved_at = here.seconds(), time.monotonic()

    def used() -> float:
        return spent + here.seconds() - started

    def save() -> None:
        if here.rank:
            return
        state = {"module": module.state_dict(), "average": average, "step": step, "spent": used(), "log": log}
        state["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
        half = checkpoint.with_suffix(".part")
        torch.save(state, half)
        half.replace(checkpoint)

    torch.manual_seed(step * here.ranks + here.rank)
    floating = [key for key, value in average.items() if value.dtype.is_floating_point]
    now = module.state_dict()  # the tensors themselves, which every step changes in place
    averages, values = [average[key] for key in floating], [now[key] for key in floating]
    while (share := agreed(used() / 60 / minutes)) < 1:
        pace = min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * pace
        loss = loss_of(share)
        module.zero_grad(set_to_none=True)
        loss.backward()
        if here.ranks > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= here.ranks
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        recent.append(loss.detach())
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + step) / (10 + step)))  # pyright: ignore[reportPrivateImportUsage]
        if step % 50 == 0:
            log.append([step, round(used(), 1), float(torch.stack(recent).mean())])
            recent.clear()
            if not here.rank:
                print(name, *log[-1], flush=True)
        if time.monotonic() - saved_at > PAUSE:
            save()
            saved_at = time.monotonic()
    save()
    if not here.rank:
        with (here.logs / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["step", "seconds", "loss"], *log])
    module.load_state_dict(average)
    return module.eval()


def agreed(share: float) -> float:
    """The share of the first process, so that all processes stop together."""
    if HERE.ranks == 1:
        return share
    told = torch.tensor([share], device=HERE.device)
    dist.broadcast(told, 0)
    return float(told)


def publish(
    name: str, tensors: dict[str, torch.Tensor], card: dict, dtype: torch.dtype = torch.float16
) -> Path:
    """Write ``<name>.safetensors`` with ``card`` in its metadata to the weights of this training."""
    path = HERE.weights / f"{name}.safetensors"
    if HERE.rank:
        meet()
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for key, value in tensors.items()
    }
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in card.items()}
    save_file(tensors, half, metadata={"format": "pt"} | metadata)
    half.chmod(0o644)
    half.replace(path)
    meet()
    return path


def meet() -> None:
    """Wait until every process of a torchrun is here."""
    if HERE.ranks > 1:
        dist.barrier()


def published(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a model that this training has finished, in float32."""
    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in load_file(files.weights_file(name)).items()
    }
