"""The low-resolution picture a super-resolution stage looks at: enlarged, blurred and noised."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(image: Tensor, height: int, width: int) -> Tensor:
    """``b c h w`` to the given size, bilinear with the corners aligned, as the stages were trained."""
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=True)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur (``b c h w``) with IF's 3x3 kernel, mirrored at the border; ``sigma`` in pixels."""
    if sigma <= 0:
        return image
    side = math.exp(-0.5 / sigma**2)
    row = torch.tensor([side, 1.0, side], dtype=image.dtype, device=image.device)
    row = row / row.sum()
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernel, groups=image.shape[1])


def augmentation_step(level: float, steps: int = 1000) -> int:
    """The timestep that an augmentation level from 0 to 1 means; ValueError outside."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"the augmentation level is {level}; it has to lie between 0 and 1.")
    return min(int(level * steps), steps - 1)


def augment(image: Tensor, noise: Tensor, abar: float) -> Tensor:
    """Noise conditioning augmentation: ``sqrt(abar) * image + sqrt(1 - abar) * noise`` (Imagen, 2.4)."""
    return math.sqrt(abar) * image + math.sqrt(1 - abar) * noise
