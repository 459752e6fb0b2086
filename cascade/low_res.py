"""The low-resolution image that a super-resolution stage reads: enlarged, blurred and noised."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(image: Tensor, height: int, width: int) -> Tensor:
    """``b c h w`` to the given size, bilinear with the corners aligned, as the stages were trained."""
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=True)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur (``b c h w``) with IF's 3x3 kernel, mirrored at the border; ``sigma`` in pixels.

    An image one pixel high or wide is returned as it is.
    """
    if sigma <= 0 or min(image.shape[-2:]) < 2:
        return image
    side = math.exp(-0.5 / sigma**2)
    row = torch.tensor([side, 1.0, side], dtype=image.dtype, device=image.device)
    row = row / row.sum()
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernel, groups=image.shape[1])


def check(level: float, blur: float) -> None:
    """ValueError for a noise level outside [0, 1] or a negative blur."""
    augmentation_step(level)
    if not blur >= 0.0:
        raise ValueError(f"The blur is {blur}. It is a sigma in pixels and has to be at least 0.")


def augmentation_step(level: float, steps: int = 1000) -> int:
    """The timestep of an augmentation level from 0 to 1; ValueError outside."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"The noise level aug_level is {level}. It has to be between 0 and 1.")
    return min(int(level * steps), steps - 1)


def augment(image: Tensor, noise: Tensor, abar: float) -> Tensor:
    """Noise conditioning augmentation: ``sqrt(abar) * image + sqrt(1 - abar) * noise`` (Imagen, 2.4)."""
    return math.sqrt(abar) * image + math.sqrt(1 - abar) * noise
