"""How far float32 may be from float64, and how far one order of summation from another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SAFETY = 16  # a product of up to 128 terms rounds more than once; measured ratios are below 5


class Rounded(TorchDispatchMode):
    """Computes in float64 and rounds the result of every operation to float32, up or down at random."""

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for out in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(out, Tensor) or out.dtype != torch.float64 or func.is_view:
                continue
            if not any(out is given for given in args):
                noise = torch.rand(out.shape, generator=self.generator, dtype=out.dtype)
                out.mul_(1 + (noise - 0.5) * torch.finfo(torch.float32).eps)
        return result


def float32_bound(run: Callable[[], Tensor]) -> float:
    """How far a float32 result of ``run``, which computes in float64, may be from the float64 one on any CPU.

    Rounding errors grow by the model's own amplification; two runs with random rounding measure it.
    """
    exact, deviations = run(), []
    for seed in range(2):
        with Rounded(seed):
            deviations.append((run() - exact).abs().max().item())
    return SAFETY * max(deviations)
