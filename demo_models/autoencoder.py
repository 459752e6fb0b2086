"""The demo models' latent space: images of 128 pixels as four channels of 32, by a small convolutional autoencoder."""

from typing import Any

import torch
from torch import Tensor, nn

DOWNSCALE = 4
LATENT_CHANNELS = 4


class Residual(nn.Module):
    """``x + conv(silu(conv(silu(x))))``: no normalisation, so that flat colours stay what they are."""

    def __init__(self, width: int, operations: Any = nn):
        super().__init__()
        self.first = operations.Conv2d(width, width, 3, padding=1)
        self.second = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))


class Autoencoder(nn.Module):
    """Encodes ``b 3 4h 4w`` in -1..1 to latents ``b 4 h w`` of zero mean and unit variance, and back."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int = 64, operations: Any = nn):
        super().__init__()
        self.encoder = nn.Sequential(
            operations.Conv2d(3, width, DOWNSCALE, stride=DOWNSCALE),
            Residual(width, operations),
            Residual(width, operations),
            operations.Conv2d(width, LATENT_CHANNELS, 3, padding=1),
        )
        half, quarter = width // 2, width // 4
        self.decoder = nn.Sequential(
            operations.Conv2d(LATENT_CHANNELS, width, 3, padding=1),
            Residual(width, operations),
            Residual(width, operations),
            Residual(width, operations),
            operations.Conv2d(width, 4 * half, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(half, operations),
            operations.Conv2d(half, 4 * quarter, 3, padding=1),
            nn.PixelShuffle(2),
            Residual(quarter, operations),
            operations.Conv2d(quarter, 3, 3, padding=1),
        )
        self.register_buffer("mean", torch.zeros(LATENT_CHANNELS, 1, 1))
        self.register_buffer("deviation", torch.ones(LATENT_CHANNELS, 1, 1))

    def encode(self, pictures: Tensor) -> Tensor:
        return (self.encoder(pictures) - self.mean.to(pictures)) / self.deviation.to(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents * self.deviation.to(latents) + self.mean.to(latents))
