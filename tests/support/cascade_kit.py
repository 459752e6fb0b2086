"""What the cascade's sampling tests share: the smallest stage, three texts, and a short run."""

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from blockwork.cascade import host_model, keys
from blockwork.cascade.host_sampler import MixGuider, stage_sigmas
from blockwork.cascade.unet_config import UNetConfig
from blockwork.tests.support import cascade_files

CPU = torch.device("cpu")
host_model.register()


def minimal_stage(seed=0):
    """The smallest network that is a stage I: one level, attention in the middle, an untamed output head."""
    config = UNetConfig(
        in_channels=3, out_channels=6, widths=(64,), layers=(1,), attention=("none",), middle_attention="joint",
        time_dim=64, text_dim=64, context_dim=64, projects_text=True, super_resolution=False,
    )  # fmt: skip
    state_dict = cascade_files.stage_state_dict(config, seed=seed, output_scale=1.0)
    return comfy.sd.load_diffusion_model_state_dict(keys.to_original(state_dict))


def three_texts():
    """Text states of three prompts of four tokens."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 4, 64, generator=generator) for _ in range(3)]


def conditioned(text, **options):
    return [[text, options]]


def run(model, texts, sampler, sigmas, cfg=7.0, latent=None, mask=None, size=8, seed=0, positive=None):
    latent = torch.zeros(1, 3, size, size) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return comfy.samplers.sample(
        model, noise, positive or conditioned(texts[0]), conditioned(texts[1]), cfg, CPU, sampler, sigmas,
        model.model_options, latent_image=latent, denoise_mask=mask, seed=seed, disable_pbar=True,
    )  # fmt: skip


def mixed(model, texts, mix, sampler="euler"):
    """A short run with a mix of the first and the third prompt."""
    guider = MixGuider(model, mix)
    guider.set_prompts(conditioned(texts[0]), conditioned(texts[2]), conditioned(texts[1]))
    guider.set_cfg(4.0)
    latent = torch.zeros(1, 3, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 0)
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return guider.sample(noise, latent, sampler, stage_sigmas(model, "3,3"), seed=0, disable_pbar=True)


def scheduled(model, scheduler, steps=4):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
