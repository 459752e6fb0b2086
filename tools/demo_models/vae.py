"""Trains the autoencoder of the demo models' latent space on pictures of every style."""

import torch
from blockwork.demo_models.autoencoder import Autoencoder

from .training import batches, pictures, publish, scenes, signed, train, world

NOISE = 0.1  # of the latents' own deviation: what the U-Net leaves undone must not show


def run(steps: int = 6000, minutes: float | None = None, seed: int = 11) -> None:
    """Train and publish the autoencoder."""
    torch.manual_seed(seed)
    drawn = torch.cat(
        [pictures(scenes(3000, seed + index, style)) for index, style in enumerate(world.STYLES)]
    )
    model = Autoencoder()
    order = batches(len(drawn), 32, seed)

    def loss_of(step: int) -> torch.Tensor:
        x = signed(drawn[next(order)])
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encoder(x).float()
            deviation = z.std((0, 2, 3), keepdim=True)
            noisy = z + NOISE * torch.rand(len(z), 1, 1, 1) * deviation * torch.randn_like(z)
            y = model.decoder(noisy).float()
        wide = (z.mean((0, 2, 3)) ** 2).mean() + (deviation - 1).square().mean()
        return (y - x).square().mean() + 0.5 * (y - x).abs().mean() + 1e-3 * wide

    model = train("vae", model, loss_of, steps, 1e-3, minutes=minutes)
    test = signed(pictures([s for style in world.STYLES for s in scenes(100, 999, style, held_out=True)]))
    with torch.no_grad():
        z = model.encoder(signed(drawn[::9]))
        model.mean.copy_(z.mean((0, 2, 3)).view(-1, 1, 1))
        model.deviation.copy_(z.std((0, 2, 3)).view(-1, 1, 1))
        error = (model.decode(model.encode(test)).clamp(-1, 1) - test).square().mean()
    decibels = float(10 * torch.log10(4 / error))
    publish("vae", model.state_dict(), {"seed": str(seed), "psnr_db": f"{decibels:.2f}"})
    print(f"PSNR on held-out scenes of all styles: {decibels:.2f} dB")
