"""Weights drawn from a seed: the same bits on every machine, so that test data holds results and no weights."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def draw(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """A deprojector's state dict by key and shape, float32, in the usual sizes; integers where the key counts.

    Every number is a multiple of 1/32768 times a power of two. numpy guarantees the stream of PCG64.
    """
    stream = np.random.Generator(np.random.PCG64(seed))
    return {key: _tensor(key, shape, stream) for key, shape in sorted(shapes.items())}


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The embeddings of a case, ``3 d``, and the states for its teacher-forced run, ``1 77 d``."""
    config = case["config"]
    width = config.get("hidden_size") or config["embed_dim"]
    stream = np.random.Generator(np.random.PCG64([case["seed"], 1]))
    return _uniform([3, width], 2.0, stream), _uniform([1, 77, width], 2.0, stream)


def _tensor(key: str, shape: list[int], stream: np.random.Generator) -> Tensor:
    name = key.rpartition(".")[2]
    if name == "position_ids":
        return torch.arange(shape[-1]).view(shape)
    if name == "num_batches_tracked":
        return torch.tensor(7)
    if name == "running_var":
        return 1 + _uniform(shape, 0.5, stream)
    if name.endswith("_embed") or name == "running_mean":
        return _uniform(shape, 1.0, stream)
    if len(shape) < 2:  # biases, and the weights of norms around 1
        return _uniform(shape, 0.125, stream) + (1.0 if "norm" in key and name == "weight" else 0.0)
    return _uniform(shape, 2.0 ** round(math.log2(shape[-1] ** -0.5)), stream)


def _uniform(shape: list[int], half: float, stream: np.random.Generator) -> Tensor:
    steps = stream.integers(-(1 << 15), 1 << 15, size=shape)
    return torch.from_numpy(np.asarray(steps * (half / (1 << 15)), np.float32))
