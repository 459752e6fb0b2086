"""Random inputs for the tests of merge methods."""

import sd_mecha  # noqa: F401  (registers the built-in methods)
import torch
from blockwork.merge.methods import METHODS


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inputs(name: str, shape: tuple[int, ...] = (24, 10, 3, 3), dtype: torch.dtype = torch.float16):
    method = METHODS[name]
    count = method.most or max(method.least, 4)
    return method, [draw(*shape, seed=seed + 1, dtype=dtype) for seed in range(count)]


def numbers(method, value: float = 0.3) -> dict[str, float]:
    return {name: value * (1 + index) for index, name in enumerate(method.ratios)}
