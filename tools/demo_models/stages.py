"""Trains the demo models' pixel cascade: stage I draws 16 x 16 pixels from text, stage II makes 64 x 64 of them.

Both are DeepFloyd IF's U-Net, cosine schedule and noise prediction with a learned range of variances, under
the hybrid loss of Improved DDPM (Nichol and Dhariwal 2021, section 3.1). The simple part is weighted by
``min((snr + 1) / snr, 30)``: as large as v's loss where the noise is strong, and full where it is weak, so that no grain is
left. They read the demo models' CLIP instead of a T5. Stage II sees whole images and noise on its low-resolution image
(Imagen, Saharia et al. 2022, section 2.4), spread evenly over 0 to 0.6; in a share of the steps that image is noise alone.
All styles have the same 16 x 16 image, so that stage II has its style from the text alone.
"""

import dataclasses
import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from blockwork.cascade import keys, low_res, schedule
from blockwork.cascade.unet import PixelUNet
from blockwork.cascade.unet_blocks import Attention, AttentionPooling, Residual
from blockwork.cascade.unet_config import UNetConfig
from blockwork.demo_models import drawing
from torch import Tensor, nn

from .said import Said
from .training import HERE, autocast, batches, images, publish, scenes, signed, train

HIGHEST = 30.0  # of the weight of the simple loss
VLB_WEIGHT = 1e-3
FACTOR = drawing.SMALL // drawing.CELLS
LEVELS, NO_IMAGE = 0.6, 0.1  # stage II: the highest level of augmentation; how often its image is noise alone
COUNT = 16000

SHAPE = dict(
    out_channels=6, layers=(1, 1, 1), time_dim=128, text_dim=128, context_dim=64, projects_text=True,
)  # fmt: skip
STAGES = {
    "I": UNetConfig(
        in_channels=3, widths=(64, 64, 64), attention=("none", "joint", "joint"), middle_attention="joint",
        super_resolution=False, **SHAPE,
    ),
    "II": UNetConfig(
        in_channels=6, widths=(32, 64, 128), attention=("none", "none", "text"), middle_attention="joint",
        super_resolution=True, **SHAPE,
    ),
}  # fmt: skip
NAMES = {"I": "stage1", "II": "stage2"}
BATCH = {"I": 32, "II": 12}


@dataclass(frozen=True)
class Process:
    """The cosine diffusion process at every timestep (all ``1000``): signal share, beta and log variances."""

    abar: Tensor
    beta: Tensor
    log_low: Tensor
    log_high: Tensor

    @classmethod
    def cosine(cls) -> "Process":
        beta, abar = schedule.cosine_betas(), schedule.alphas_cumprod()
        before = torch.cat((abar.new_ones(1), abar[:-1]))
        posterior = beta * (1 - before) / (1 - abar)
        posterior[0] = posterior[1]  # the first is 0, which has no logarithm
        return cls(*(table.float().to(HERE.device) for table in (abar, beta, posterior.log(), beta.log())))

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``x0`` (``b c h w``) at timesteps ``t`` (``b``)."""
        abar = _over(self.abar[t])
        return abar.sqrt() * x0 + (1 - abar).sqrt() * noise

    def loss(self, out: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The hybrid loss of a prediction ``out`` (``b 2c h w``: noise and variance)."""
        predicted, v = out.chunk(2, 1)
        snr = _over(self.abar[t] / (1 - self.abar[t]))
        simple = ((predicted - noise).square() * ((snr + 1) / snr).clamp(max=HIGHEST)).mean()
        return simple + VLB_WEIGHT * len(self.abar) * self._bound(predicted.detach(), v, x0, noise, t).mean()

    def _bound(self, predicted: Tensor, v: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The variational bound's term of each sample in bits per value, for the variance alone."""
        abar, beta, low, high = (
            _over(table[t]) for table in (self.abar, self.beta, self.log_low, self.log_high)
        )
        share = (v + 1) / 2
        log_variance = share * high + (1 - share) * low
        error = (noise - predicted) * beta / ((1 - abar) * (1 - beta)).sqrt()  # of the step's mean
        divergence = 0.5 * (
            log_variance - low - 1 + (low - log_variance).exp() + error.square() * (-log_variance).exp()
        )
        mean = (self.noised(x0, noise, t) - predicted * beta / (1 - abar).sqrt()) / (1 - beta).sqrt()
        term = torch.where(_over(t) == 0, -_log_likelihood(x0, mean, log_variance), divergence)
        return term.mean((1, 2, 3)) / math.log(2)


def _over(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _log_likelihood(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of 256 levels of brightness under a Gaussian (DDPM, Ho et al. 2020, equation 13)."""
    scale = (-0.5 * log_variance).exp()
    above = torch.special.ndtr(scale * (x0 - mean + 1 / 255))
    below = torch.special.ndtr(scale * (x0 - mean - 1 / 255))
    above = torch.where(x0 > 0.999, 1.0, above)
    below = torch.where(x0 < -0.999, 0.0, below)
    return (above - below).clamp(min=1e-12).log()


class Operations:
    """Torch's own layers, kept off channels-last memory: group norms of few channels are ten times slower there."""

    Linear, GroupNorm, LayerNorm = nn.Linear, nn.GroupNorm, nn.LayerNorm

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.contiguous())


def new_stage(config: UNetConfig) -> PixelUNet:
    """A stage's U-Net as torch starts it, the last layer of every branch at zero."""
    unet = PixelUNet(config, Operations)
    for module in unet.modules():
        if isinstance(module, Residual):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)
        elif isinstance(module, AttentionPooling):
            nn.init.normal_(module.positional_embedding, std=0.02)
    nn.init.zeros_(unet.conv_out.weight)
    return unet


def small_of(drawn: Tensor) -> Tensor:
    """Bytes ``n 3 64 64`` as stage I's images, ``n 3 16 16`` in -1..1."""
    return torch.cat([F.avg_pool2d(signed(part).cpu(), FACTOR) for part in drawn.split(1024)])


def run(minutes: float, stage: str = "I", seed: int = 41) -> None:
    """Train and publish one stage; the seed of stage II is one more, so that its noise is different."""
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}; choose I or II.")
    config, name = STAGES[stage], NAMES[stage]
    seed += stage == "II"
    torch.manual_seed(seed)
    seen = scenes(COUNT, seed)
    drawn = images(seen, drawing.SMALL)
    small, drawn = small_of(drawn).to(HERE.device), drawn.to(HERE.device)
    said = Said(seen, random.Random(seed))
    unet, process = new_stage(config), Process.cosine()
    order = batches(len(seen), HERE.batch(BATCH[stage]), seed)

    def loss_at(
        x0: Tensor, indices: Tensor, below: Tensor | None = None, level: Tensor | None = None
    ) -> Tensor:
        """The loss at timesteps spread evenly over the process."""
        spread = (torch.arange(len(x0), device=x0.device) + torch.rand(len(x0), device=x0.device)) / len(x0)
        t, noise = (spread * 1000).long().clamp(max=999), torch.randn_like(x0)
        x = process.noised(x0, noise, t)
        x = x if below is None else torch.cat((x, below), 1)
        with autocast():
            out = unet(x, t, said(indices), aug_steps=level)
        return process.loss(out.float(), x0, noise, t)

    def loss_one(_: float) -> Tensor:
        indices = next(order)
        return loss_at(small[indices], indices)

    def loss_two(_: float) -> Tensor:
        indices = next(order)
        x0, below = signed(drawn[indices]), small[indices]
        below = low_res.enlarge(below, *x0.shape[-2:])
        level = (LEVELS * 1000 * torch.rand(len(x0), device=x0.device)).long()
        level = torch.where(torch.rand(len(x0), device=x0.device) < NO_IMAGE, 999, level)
        below = process.noised(below, torch.randn_like(below), level)
        return loss_at(x0, indices, below, level)

    train(name, unet, {"I": loss_one, "II": loss_two}[stage], minutes, 1e-3, decay=0.999, muon=True)
    card = {"seed": str(seed), "config": dataclasses.asdict(config)}
    publish(name, keys.to_original(unet.state_dict()), card)
