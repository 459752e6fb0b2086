"""Trains the autoencoder of the demo models' latent space on crops of images of every style."""

import torch
from blockwork.demo_models import world
from blockwork.demo_models.autoencoder import Autoencoder

from .training import HERE, autocast, batches, images, publish, scenes, signed, train

NOISE = 0.1  # of the latents' own deviation: what the U-Net leaves unfinished must not show
CROP = 64


def run(minutes: float, seed: int = 11) -> None:
    """Train and publish the autoencoder."""
    torch.manual_seed(seed)
    drawn = torch.cat(
        [
            images(scenes(800, seed + index, style))
            for index, style in enumerate((*world.STYLES, *world.TUNED))
        ]
    )
    model = Autoencoder()
    order = batches(len(drawn), HERE.batch(32), seed)

    def loss_of(_: float) -> torch.Tensor:
        top, left = (4 * torch.randint((drawn.shape[-1] - CROP) // 4 + 1, (2,))).tolist()
        x = signed(drawn[next(order)][..., top : top + CROP, left : left + CROP])
        with autocast():
            z = model.encoder(x).float()
            deviation = z.std((0, 2, 3), keepdim=True)
            noisy = z + NOISE * torch.rand(len(z), 1, 1, 1, device=z.device) * deviation * torch.randn_like(z)
            y = model.decoder(noisy).float()
        wide = (z.mean((0, 2, 3)) ** 2).mean() + (deviation - 1).square().mean()
        return (y - x).square().mean() + 0.5 * (y - x).abs().mean() + 1e-3 * wide

    model = train("vae", model, loss_of, minutes, 1.5e-3, muon=True)
    test = signed(
        images([s for style in (*world.STYLES, *world.TUNED) for s in scenes(32, 999, style, held_out=True)])
    )
    with torch.no_grad():
        z = torch.cat([model.encoder(signed(part)) for part in drawn[::9].split(64)])
        model.mean.copy_(z.mean((0, 2, 3)).view(-1, 1, 1))
        model.deviation.copy_(z.std((0, 2, 3)).view(-1, 1, 1))
        error = torch.cat(
            [
                (model.decode(model.encode(x)).clamp(-1, 1) - x).square().mean((1, 2, 3))
                for x in test.split(32)
            ]
        )
    of = {style: f"{float(10 * torch.log10(4 / each.mean())):.2f}" for style, each in
          zip((*world.STYLES, *world.TUNED), error.split(32), strict=True)}  # fmt: skip
    publish("vae", model.state_dict(), {"seed": str(seed), "psnr_db": of})
    print(f"PSNR on held-out scenes: {of} dB")
