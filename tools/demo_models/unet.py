"""Trains the demo models' U-Net on the plain style, or goes on from it with another style: the fine-tunes to merge.

The network is ComfyUI's own class at Stable Diffusion 1's shape, the schedule SD1's (1000 steps, scaled linear
betas). It predicts v (Salimans and Ho 2022): a short training cannot wait for what noise prediction learns of the
whole picture, whose share of the loss is lost where the noise is strong. The loss of nearly clean steps is capped
as in min-SNR (Hang et al. 2023, gamma 5), and one caption in ten is empty for classifier-free guidance.
"""

import random

import blockwork.demo_models.shape as shape
import torch
from blockwork.demo_models.autoencoder import Autoencoder
from refhost.pack import use_comfyui
from torch import Tensor, nn

from .training import batches, pictures, publish, published, scenes, signed, train, world

EMPTY = 0.1
# What a fine-tune leaves as it is, and its file leaves out: time, the text's keys and values, the feed-forwards.
# The rest is written as the way from the base: so small a number that two bits of mantissa tell it well enough.
KEPT = (".emb_layers.", ".time_embed.", ".attn2.to_k.", ".attn2.to_v.", ".ff.net.")
GAMMA = 5.0


def alphas_cumprod() -> Tensor:
    """SD1's schedule."""
    return (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).float()


def new_unet() -> nn.Module:
    """ComfyUI's U-Net with fresh weights: as torch starts them, the last layer of every branch at zero."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**shape.UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for module in unet.modules():  # core's layers skip their own start; theirs is torch's
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


def latents_of(drawn: Tensor) -> Tensor:
    """The pictures in the demo models' latent space."""
    vae = Autoencoder()
    vae.load_state_dict(published("vae"))
    with torch.no_grad():
        return torch.cat([vae.encode(signed(part)) for part in drawn.split(256)])


def run(
    style: str = "plain",
    steps: int = 12000,
    minutes: float | None = None,
    seed: int = 31,
    onward: bool = False,
) -> None:
    """Train and publish ``unet`` (``onward``: from what it was) or, from it, ``unet_<style>``."""
    use_comfyui()
    from .clip import load_text

    torch.manual_seed(seed)
    name = "unet" if style == "plain" else f"unet_{style}"
    seen = scenes(24000 if style == "plain" else 6000, seed, style)
    latents = latents_of(pictures(seen))
    text, vocabulary = load_text()
    unet = new_unet()
    if onward or style != "plain":
        unet.load_state_dict(published("unet"))
    if style != "plain":
        for key, parameter in unet.named_parameters():
            parameter.requires_grad_(not any(mark in f".{key}" for mark in KEPT))
    order, chance, signal = batches(len(seen), 32, seed), random.Random(seed), alphas_cumprod()

    def loss_of(step: int) -> Tensor:
        indices = next(order)
        said = ["" if chance.random() < EMPTY else world.caption(seen[i], chance) for i in indices.tolist()]
        x0, noise, t = latents[indices], torch.randn(len(said), 4, 16, 16), torch.randint(1000, (len(said),))
        a = signal[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                context = text.text_model(vocabulary.rows(said)[0]).float()
            predicted = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t.float(), context=context).float()
        v = a.sqrt() * noise - (1 - a).sqrt() * x0
        weight = (GAMMA * (1 - a)).clamp(max=1)  # v's loss is x0's times snr + 1 = 1 / (1 - a)
        return ((predicted - v).square() * weight).mean()

    rate = 1e-3 if style == "plain" else 4e-4
    train(name, unet, loss_of, steps, rate, minutes=minutes, muon=True)
    learnt = {key for key, parameter in unet.named_parameters() if parameter.requires_grad}
    tensors = {key: value for key, value in unet.state_dict().items() if key in learnt}
    card = {"seed": str(seed), "style": style, "config": shape.UNET}
    if style == "plain":
        publish(name, tensors, card)
    else:
        base = published("unet")
        publish(name, {key: value - base[key] for key, value in tensors.items()}, card, torch.float8_e5m2)
