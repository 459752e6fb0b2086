"""The learned-range step against diffusers at every timestep of every list, and the low-res picture."""

import pytest
import torch
from blockwork.cascade import low_res
from blockwork.cascade.diffusion import learned_range_step, step_coefficients
from blockwork.cascade.schedule import NAMED_SPACINGS, alphas_cumprod, respaced_timesteps
from blockwork.cascade.threshold import dynamic_threshold
from diffusers import DDPMScheduler

LISTS = {name: respaced_timesteps(name) for name in NAMED_SPACINGS}
LISTS["leading 100"] = list(range(990, -1, -10))


def errors_of_steps(timesteps, dtype, monkeypatch):
    """Largest difference to diffusers' scheduler at each timestep, each step from fresh random input."""
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )
    scheduler.set_timesteps(timesteps=timesteps)
    table = alphas_cumprod("cosine")
    if dtype == torch.float64:
        scheduler.alphas_cumprod, scheduler.one = table, torch.ones((), dtype=dtype)
    abar = table.tolist()
    generator = torch.Generator().manual_seed(0)
    for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        x, eps, noise, v = (torch.randn(2, 3, 8, 8, generator=generator, dtype=dtype) for _ in range(4))
        v = v.clamp(-1.5, 1.5)  # beyond [-1, 1] too, where the log variance extrapolates
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, n=noise, **__: n)
        expected = scheduler.step(torch.cat([eps, v], dim=1), t, x).prev_sample
        x0 = (x - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5
        coefficients = step_coefficients(abar[t], 1.0 if after is None else abar[after])
        x0 = dynamic_threshold(x0, 0.95, 1.5)
        mine = learned_range_step(x, x0, v, None if after is None else noise, coefficients)
        yield t, (mine - expected).abs().max().item()


@pytest.mark.parametrize("name", LISTS)
def test_every_step_is_diffusers_in_double(name, monkeypatch):
    assert max(error for _, error in errors_of_steps(LISTS[name], torch.float64, monkeypatch)) < 1e-9


@pytest.mark.parametrize("name", LISTS)
def test_every_step_is_diffusers_in_single(name, monkeypatch):
    # Below t = 100 diffusers' float32 table has lost up to three digits of 1 - abar; ours is float64.
    for t, error in errors_of_steps(LISTS[name], torch.float32, monkeypatch):
        assert error < (2e-5 if t > 100 else 1e-4), (t, error)


def test_the_last_step_is_the_prediction_itself():
    x0 = torch.randn(1, 3, 4, 4)
    out = learned_range_step(torch.randn(1, 3, 4, 4), x0, x0, None, step_coefficients(0.9, 1.0))
    assert torch.equal(out, x0)


def test_enlarging_aligns_the_corners():
    image = torch.randn(2, 3, 8, 6)
    large = low_res.enlarge(image, 32, 24)
    assert large.shape == (2, 3, 32, 24)
    torch.testing.assert_close(large[..., [0, -1], :][..., [0, -1]], image[..., [0, -1], :][..., [0, -1]])


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.5])
def test_blur_is_torchvisions(sigma):
    from torchvision.transforms.functional import gaussian_blur

    image = torch.randn(2, 3, 9, 12)
    torch.testing.assert_close(
        low_res.blur(image, sigma), gaussian_blur(image, [3, 3], [sigma, sigma]), rtol=0, atol=1e-6
    )


def test_no_blur_is_no_change():
    image = torch.randn(1, 3, 4, 4)
    assert low_res.blur(image, 0.0) is image


@pytest.mark.parametrize("level", [0, 250, 999])
def test_augmentation_is_diffusers(level):
    image, noise = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    expected = DDPMScheduler(beta_schedule="squaredcos_cap_v2").add_noise(
        image, noise, torch.tensor([level] * 2)
    )
    assert low_res.augmentation_step(level / 1000) == level
    mine = low_res.augment(image, noise, alphas_cumprod("cosine")[level].item())
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_augmentation_level_out_of_range_is_refused():
    assert low_res.augmentation_step(1.0) == 999
    with pytest.raises(ValueError, match="between 0 and 1"):
        low_res.augmentation_step(1.2)
