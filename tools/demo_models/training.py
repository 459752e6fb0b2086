"""What every training shares: where things lie, the pictures, a resumable loop with a log."""

import csv
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from blockwork.demo_models import drawing, world
from refhost import layout
from safetensors.torch import load_file, save_file

from .muon import Muon

SCRATCH = layout.ROOT / ".demo_models"
WEIGHTS = layout.ROOT / "demo_models" / "weights"
LOGS = layout.ROOT / "demo_models" / "logs"
M = TypeVar("M", bound=torch.nn.Module)
PAUSE = 60.0  # seconds between two checkpoints
CHANNELS = 8  # a layer as narrow as this reads or writes the picture: no work for Muon


def scenes(count: int, seed: int, style: str = "plain", **how) -> list:
    """``count`` scenes in one style; the same seed gives the same scenes."""
    chance = random.Random(seed)
    return [world.draw_scene(chance, **how).in_style(style) for _ in range(count)]


def pictures(of: list) -> torch.Tensor:
    """The scenes drawn, ``n 3 64 64`` bytes."""
    out = torch.empty(len(of), 3, drawing.SIDE, drawing.SIDE, dtype=torch.uint8)
    for index, scene in enumerate(of):
        out[index] = (drawing.draw(scene) * 255).round().byte()
    return out


def signed(batch: torch.Tensor) -> torch.Tensor:
    """Bytes 0..255 as floats -1..1."""
    return batch.float() / 127.5 - 1


def batches(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless epochs of shuffled indices."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].view(-1, size)


def train(
    name: str,
    module: M,
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    rate: float,
    warmup: int = 100,
    decay: float = 0.999,
    minutes: float | None = None,
    muon: bool = False,
) -> M:
    """Train ``module`` with AdamW under a cosine rate and return its moving average.

    With ``muon`` that takes the matrices and kernels at the same rate, but not those at the picture's own channels.
    A run that was stopped goes on from its last checkpoint. With ``minutes`` the cosine follows the clock
    instead of the count, so that the run ends in time whatever else the machine does. The log of losses is
    written to ``demo_models/logs``.
    """
    SCRATCH.mkdir(exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    state_file = SCRATCH / f"{name}.pt"
    parameters = [p for p in module.parameters() if p.requires_grad]
    apart = [p for p in parameters if muon and p.ndim > 1 and min(p.shape[:2]) > CHANNELS]
    rest = [p for p in parameters if not any(p is other for other in apart)]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
    ]
    if muon:
        optimisers.append(Muon(apart, lr=rate))
    average = {key: value.detach().clone() for key, value in module.state_dict().items()}
    step, spent, log, recent = 0, 0.0, [], []
    if state_file.is_file():
        saved = torch.load(state_file, weights_only=True)
        module.load_state_dict(saved["module"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        average, step, spent, log = saved["average"], saved["step"], saved["spent"], saved["log"]
    started = saved_at = time.monotonic()

    def share() -> float:
        if minutes is None:
            return step / steps
        return max(step / steps, (spent + time.monotonic() - started) / 60 / minutes)

    def save() -> None:
        state = dict(module=module.state_dict(), average=average, step=step)
        state["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
        half = state_file.with_suffix(".part")
        torch.save(state | dict(spent=spent + time.monotonic() - started, log=log), half)
        half.replace(state_file)

    torch.manual_seed(step)
    while share() < 1:
        pace = min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share())))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * pace
        loss = loss_of(step)
        module.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        recent.append(float(loss.detach()))
        keep = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.dtype.is_floating_point:
                    average[key].lerp_(value, 1 - keep)
                else:
                    average[key].copy_(value)
        if step % 100 == 0:
            log.append([step, round(spent + time.monotonic() - started, 1), sum(recent) / len(recent)])
            recent.clear()
            print(name, *log[-1], flush=True)
        if time.monotonic() - saved_at > PAUSE:
            save()
            saved_at = time.monotonic()
    save()
    with (LOGS / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "seconds", "loss"], *log])
    module.load_state_dict(average)
    return module.eval()


def publish(
    name: str, tensors: dict[str, torch.Tensor], card: dict, dtype: torch.dtype = torch.float16
) -> Path:
    """Write ``demo_models/weights/<name>.safetensors`` with ``card`` in its metadata."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    path = WEIGHTS / f"{name}.safetensors"
    half = path.with_suffix(".part")
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for key, value in tensors.items()
    }
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in card.items()}
    save_file(tensors, half, metadata={"format": "pt"} | metadata)
    half.chmod(0o644)
    half.replace(path)
    return path


def published(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a published model, in float32."""
    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in load_file(WEIGHTS / f"{name}.safetensors").items()
    }
