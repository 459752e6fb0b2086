"""Trains the demo models' U-Net, or from it a fine-tune to another style: the models to merge.

The network is ComfyUI's own class at Stable Diffusion 1's shape, the schedule SD1's (1000 steps, scaled linear
betas). It predicts v (Salimans and Ho 2022): a short training cannot wait for what noise prediction learns of the
whole image, whose share of the loss is small where the noise is strong. The loss of nearly clean steps is capped
as in min-SNR (Hang et al. 2023, gamma 5), and one caption in ten is empty for classifier-free guidance. Timesteps are drawn more often
where the noise is strong, as the image is large for what it shows (Esser et al. 2024, section 5.3.2). The first part of the
training is at half the size, as SD1's was.
"""

import random

import blockwork.demo_models.shape as shape
import torch
from blockwork.demo_models import drawing, world
from blockwork.demo_models.autoencoder import Autoencoder
from torch import Tensor, nn

from .said import Said
from .training import HERE, autocast, batches, images, publish, published, replayed, scenes, signed, train

HALF = 0.75  # of the training of the base, at half the size
COUNT, TUNED_COUNT = 20000, 5000
# What a fine-tune leaves as it is, and its file leaves out: time, the text's keys and values, the feed-forwards.
# The rest is written as the difference from the base, for which two bits of mantissa are enough.
KEPT = (".emb_layers.", ".time_embed.", ".attn2.to_k.", ".attn2.to_v.", ".ff.net.")
GAMMA = 5.0
SHIFT = 3.0  # of the timesteps towards noise, where the shape is decided


def alphas_cumprod() -> Tensor:
    """SD1's schedule."""
    return (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()


def new_unet() -> nn.Module:
    """ComfyUI's U-Net with fresh weights: as torch starts them, the last layer of every branch at zero."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**shape.UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for module in unet.modules():  # core's layers skip their own start; this is torch's
        if isinstance(module, nn.Linear):
            nn.Linear.reset_parameters(module)
        elif isinstance(module, nn.Conv2d):
            nn.Conv2d.reset_parameters(module)
        elif isinstance(module, nn.GroupNorm):
            nn.GroupNorm.reset_parameters(module)
        elif isinstance(module, nn.LayerNorm):
            nn.LayerNorm.reset_parameters(module)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(True)
        if ".out_layers.3." in name or ".proj_out." in name or name.startswith("out.2."):
            nn.init.zeros_(parameter)
    return unet


class Positional(nn.Module):
    """A U-Net from tensors to a tensor, as CUDA graphs need it."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, t, context=context, transformer_options={})


def latents_of(seen: list, side: int, name: str) -> Tensor:
    """The scenes in the demo models' latent space, kept in a file: a run that was stopped does not draw them again."""
    path = HERE.folder / "cache" / f"{name}_{side}.pt"
    if path.is_file():
        return torch.load(path, weights_only=True)
    vae = Autoencoder()
    vae.load_state_dict(published("vae"))
    vae.to(HERE.device)
    with torch.no_grad():
        latents = torch.cat(
            [vae.encode(signed(images(seen[at : at + 128], side))).cpu() for at in range(0, len(seen), 128)]
        ).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".part{HERE.rank}")
    torch.save(latents, half)
    half.replace(path)
    return latents


def run(minutes: float, style: str = "", seed: int = 31) -> None:
    """Train and publish ``unet`` or, from it, ``unet_<style>``."""
    torch.manual_seed(seed)
    name = f"unet_{style}" if style else "unet"
    seen = scenes(TUNED_COUNT if style else COUNT, seed, style or None)
    latents = {
        side: latents_of(seen, side, name)
        for side in ((drawing.SIDE,) if style else (drawing.SIDE, drawing.SIDE // 2))
    }
    latents = {side: values.to(HERE.device) for side, values in latents.items()}
    said = Said(seen, random.Random(seed))
    unet = new_unet()
    if style:
        unet.load_state_dict(published("unet"))
        for key, parameter in unet.named_parameters():
            parameter.requires_grad_(not any(mark in f".{key}" for mark in KEPT))
    orders = {
        drawing.SIDE: batches(len(seen), HERE.batch(16), seed),
        drawing.SIDE // 2: batches(len(seen), HERE.batch(48), seed),
    }
    signal = alphas_cumprod().to(HERE.device)

    networks: dict[int, Positional] = {}

    def loss_of(share: float) -> Tensor:
        side = drawing.SIDE // 2 if not style and share < HALF else drawing.SIDE
        indices = next(orders[side])
        context, x0 = said(indices).float(), latents[side][indices].float()
        u = torch.rand(len(indices), device=HERE.device)
        noise, t = torch.randn_like(x0), (1000 * SHIFT * u / (1 + (SHIFT - 1) * u)).long().clamp(max=999)
        a = signal[t].view(-1, 1, 1, 1)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        if side not in networks:
            networks[side] = replayed(Positional(unet), x, t.float(), context)
        with autocast():
            predicted = networks[side](x, t.float(), context).float()
        v = a.sqrt() * noise - (1 - a).sqrt() * x0
        weight = (GAMMA * (1 - a)).clamp(max=1)  # v's loss is x0's times snr + 1 = 1 / (1 - a)
        return ((predicted - v).square() * weight).mean()

    train(name, unet, loss_of, minutes, 1e-3 if style else 3e-3, muon=True)
    learnt = {key for key, parameter in unet.named_parameters() if parameter.requires_grad}
    tensors = {key: value.cpu() for key, value in unet.state_dict().items() if key in learnt}
    card = {"seed": str(seed), "style": style or ", ".join(world.STYLES), "config": shape.UNET}
    if style:
        base = published("unet")
        publish(name, {key: value - base[key] for key, value in tensors.items()}, card, torch.float8_e5m2)
    else:
        publish(name, tensors, card)
