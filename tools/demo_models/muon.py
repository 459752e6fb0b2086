"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal before the step, so that no direction starves.

PyTorch's own takes matrices alone and one at a time; a U-Net is mostly convolutions, whose kernels are taken here as
matrices ``out (in h w)``, all of one shape together.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# A quintic whose iteration carries every singular value to about 1 (Jordan's coefficients).
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonal(matrices: Tensor) -> Tensor:
    """``b r c``: the singular values of each matrix near 1, its singular vectors kept (Newton-Schulz)."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Steps of Muon with Nesterov's momentum; each is as large as one of Adam's at the same rate (Liu et al. 2025)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            parameters = group["params"]
            for one in parameters:
                if not self.state[one]:
                    self.state[one]["momentum"] = torch.zeros_like(one)
            moving = [self.state[one]["momentum"] for one in parameters]
            gradients, keep = [one.grad for one in parameters], group["momentum"]
            torch._foreach_lerp_(moving, gradients, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            looked_ahead = torch._foreach_lerp(gradients, moving, keep)  # pyright: ignore[reportPrivateImportUsage]
            for parameter, ahead in zip(parameters, looked_ahead, strict=True):
                alike.setdefault(ahead.flatten(1).shape, []).append((parameter, ahead.flatten(1)))
            for shape, pairs in alike.items():
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                steps = orthogonal(torch.stack([ahead for _, ahead in pairs]))
                turned = [step.view_as(one) for (one, _), step in zip(pairs, steps, strict=True)]
                torch._foreach_add_([one for one, _ in pairs], turned, alpha=-size)  # pyright: ignore[reportPrivateImportUsage]
