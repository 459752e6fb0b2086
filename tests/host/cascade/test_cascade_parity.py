"""Whole trajectories through ComfyUI against diffusers' pipelines and DeepFloyd's loop, from the same noise.

Random networks are chaotic: the output head is scaled by 0.3, or the difference would grow to order one.
"""

import comfy.samplers
import pytest
import torch
from blockwork.cascade import host_model
from blockwork.cascade.host_load import with_threshold
from blockwork.cascade.host_model import LowRes
from blockwork.cascade.host_sampler import LearnedRangeSampler, stage_sigmas
from blockwork.cascade.host_threshold import Threshold
from blockwork.cascade.schedule import alphas_cumprod, respaced_timesteps
from blockwork.tests.support import cascade_oracles as oracles

CPU = torch.device("cpu")
HEADS = dict(head=64, pool_heads=64)
SPACING = "smart27"


@pytest.fixture(scope="module")
def stage_one():
    return oracles.diffusers_unet(oracles.stage_one_arguments(**HEADS), output_scale=0.3)


@pytest.fixture(scope="module")
def stage_two():
    return oracles.diffusers_unet(oracles.stage_two_arguments(**HEADS), seed=1, output_scale=0.3)


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 77, 64, generator=generator), torch.randn(1, 77, 64, generator=generator)


def sample(unet, cap, noise, step_noise, texts, cfg, latent=None, mask=None, options=None, known="renoised"):
    """Sample with our sampler and IF's threshold; ``step_noise`` holds the noise of every step."""
    model = with_threshold(oracles.stage_model(unet), Threshold(percentile=0.95, cap=cap))
    positive, negative = ([[text, dict(options or {})]] for text in texts)
    draws = iter(step_noise)
    return comfy.samplers.sample(
        model, noise, positive, negative, cfg, CPU, LearnedRangeSampler(known, lambda _: next(draws)),
        stage_sigmas(model, SPACING), model.model_options,
        latent_image=torch.zeros_like(noise) if latent is None else latent,
        denoise_mask=mask, seed=0, disable_pbar=True,
    )  # fmt: skip


def noises(shape, seed=0):
    """The starting noise and that of every step but the last, in the pipelines' order."""
    generator = torch.Generator().manual_seed(seed)
    count = len(respaced_timesteps(SPACING))
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("cfg", [7.0, 1.0])
def test_stage_one_is_if_pipeline(stage_one, texts, cfg):
    expected = oracles.pipeline("IFPipeline", stage_one, cap=1.5)(
        prompt_embeds=texts[0], negative_prompt_embeds=texts[1], timesteps=respaced_timesteps(SPACING),
        guidance_scale=cfg, height=16, width=24, generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    start, *steps = noises((1, 3, 16, 24))
    mine = sample(stage_one, 1.5, start, steps, texts, cfg)
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-4)


def test_a_batch_is_its_samples(stage_one, texts):
    start, *steps = noises((2, 3, 16, 16))
    both = sample(stage_one, 1.5, start, steps, texts, 7.0)
    for index in range(2):
        one = slice(index, index + 1)
        alone = sample(stage_one, 1.5, start[one], [noise[one] for noise in steps], texts, 7.0)
        torch.testing.assert_close(both[one], alone, rtol=0, atol=1e-5)


def test_the_same_run_twice_is_the_same(stage_one, texts):
    start, *steps = noises((1, 3, 16, 16))
    once, again = (sample(stage_one, 1.5, start, steps, texts, 7.0) for _ in range(2))
    assert torch.equal(once, again)


def super_resolve(stage_two, texts, level, monkeypatch):
    """Stage II by diffusers and by us, on a picture of 8 by 8, noised with the same draw."""
    low = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(9)) * 2 - 1
    expected = oracles.pipeline("IFSuperResolutionPipeline", stage_two, cap=1.0)(
        image=low, prompt_embeds=texts[0], negative_prompt_embeds=texts[1], noise_level=level,
        timesteps=respaced_timesteps(SPACING), guidance_scale=4.0, height=32, width=32,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    draws = [
        torch.randn(1, 3, 32, 32, generator=generator) for _ in range(len(respaced_timesteps(SPACING)) + 1)
    ]
    start, augmentation, *steps = draws
    augment = host_model.low_res.augment
    monkeypatch.setattr(
        host_model.low_res, "augment", lambda image, _, abar: augment(image, augmentation, abar)
    )
    options = {host_model.LOW_RES: LowRes(low, level / 1000)}
    return sample(stage_two, 1.0, start, steps, texts, 4.0, options=options), expected


@pytest.mark.parametrize("level", [0, 250, 999])
def test_stage_two_is_if_super_resolution_pipeline(stage_two, texts, level, monkeypatch):
    mine, expected = super_resolve(stage_two, texts, level, monkeypatch)
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-4)


def test_fresh_augmentation_noise_is_the_original_loop(stage_two, texts, monkeypatch):
    """Against DeepFloyd's network and respaced diffusion, which noise the picture anew in every call."""
    import numpy
    from blockwork.cascade import keys
    from blockwork.cascade.unet import describe
    from deepfloyd_if.model import gaussian_diffusion, respace

    theirs = oracles.original_unet(describe(stage_two.state_dict()))
    theirs.load_state_dict(keys.to_original(stage_two.state_dict()))
    timesteps = respaced_timesteps(SPACING)
    generator = torch.Generator().manual_seed(4)
    low = torch.rand(1, 3, 8, 8, generator=generator) * 2 - 1
    start, *steps = noises((1, 3, 32, 32), seed=4)
    fresh = [torch.randn(2, 3, 32, 32, generator=generator) for _ in timesteps]

    calls = iter(fresh)
    abar = alphas_cumprod("cosine")[250].item()
    theirs.low_res_diffusion.q_sample = lambda image, _: host_model.low_res.augment(image, next(calls), abar)
    diffusion = respace.SpacedDiffusion(
        use_timesteps=timesteps,
        betas=gaussian_diffusion.get_named_beta_schedule("cosine", 1000),
        model_mean_type=gaussian_diffusion.ModelMeanType.EPSILON,
        model_var_type=gaussian_diffusion.ModelVarType.LEARNED_RANGE,
        loss_type=gaussian_diffusion.LossType.MSE,
        rescale_timesteps=True,
    )
    assert isinstance(diffusion.betas, numpy.ndarray)

    def guided(x, t, **_):
        out = theirs(torch.cat([x, x]), torch.cat([t, t]), low_res=torch.cat([low, low]), aug_level=0.25,
                     text_emb=torch.cat(texts))  # fmt: skip
        (cond, v), (uncond, _) = (half.split(3, dim=1) for half in out.chunk(2))
        return torch.cat([uncond + 4.0 * (cond - uncond), v], dim=1)

    x = start
    for index in reversed(range(len(timesteps))):
        moments = diffusion.p_mean_variance(
            guided, x, torch.tensor([index]), dynamic_thresholding_p=0.95, dynamic_thresholding_c=1.0
        )
        x = moments["mean"]
        if index:
            x = x + torch.exp(0.5 * moments["log_variance"]) * steps[len(timesteps) - 1 - index]

    # DeepFloyd's batch is (text, empty); each prompt of ours draws its own half.
    halves = [iter([noise[half : half + 1] for noise in fresh]) for half in (0, 1)]
    seeds = [host_model.fresh_seed(0, name) for name in ("positive", "negative")]
    monkeypatch.setattr(
        host_model.FreshNoise, "draw", lambda self, like: next(halves[seeds.index(self.seed)])
    )
    options = {host_model.LOW_RES: LowRes(low, 0.25, fresh_noise=True)}
    mine = sample(stage_two, 1.0, start, steps, texts, 4.0, options=options)
    torch.testing.assert_close(mine, x, rtol=0, atol=2e-4)


def test_inpainting_is_diffusers_inpainting(stage_one, texts, monkeypatch):
    """IF's own way: the known region is put back clean after every step."""
    import diffusers
    from diffusers.pipelines.deepfloyd_if import pipeline_if_inpainting as module

    made = oracles.pipeline("IFPipeline", stage_one, cap=1.5)
    inpainting = diffusers.IFInpaintingPipeline(**made.components, requires_safety_checker=False)
    inpainting.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:16] = 1
    start, *steps = noises((1, 3, 16, 16))
    draws = iter([start, *steps])
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(draws))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(draws))
    expected = inpainting(
        image=image, mask_image=mask, prompt_embeds=texts[0], negative_prompt_embeds=texts[1], strength=1.0,
        timesteps=respaced_timesteps(SPACING), guidance_scale=7.0, output_type="pt",
    ).images  # fmt: skip
    mine = sample(stage_one, 1.5, start, steps, texts, 7.0, latent=image, mask=mask[:, 0], known="clean")
    assert torch.equal(mine[..., :4, :], image[..., :4, :])
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-4)
