"""The learned-range step against diffusers at every timestep of every list, and the low-res picture."""

import itertools

import pytest
import torch
from blockwork.cascade import low_res
from blockwork.cascade.diffusion import learned_range_step, step_coefficients
from blockwork.cascade.schedule import NAMED_SPACINGS, alphas_cumprod, respaced_timesteps
from blockwork.cascade.threshold import dynamic_threshold
from diffusers import DDPMScheduler

LISTS = {name: respaced_timesteps(name) for name in NAMED_SPACINGS}
LISTS["leading 100"] = list(range(990, -1, -10))
TABLE = alphas_cumprod("cosine")


FLOAT32 = 2**-24  # half a unit in the last place of 1


def steps_of(timesteps, dtype, monkeypatch):
    """Each timestep with diffusers' step from fresh random input, and ours as a function of abar and the next."""
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )
    scheduler.set_timesteps(timesteps=timesteps)
    if dtype == torch.float64:
        scheduler.alphas_cumprod, scheduler.one = TABLE, torch.ones((), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        x, eps, noise, v = (torch.randn(2, 3, 8, 8, generator=generator, dtype=dtype) for _ in range(4))
        v = v.clamp(-1.5, 1.5)  # beyond [-1, 1] too, where the log variance extrapolates
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, n=noise, **__: n)
        expected = scheduler.step(torch.cat([eps, v], dim=1), t, x).prev_sample
        drawn = None if after is None else noise

        def ours(abar, abar_next, given=(x, eps, v, drawn), dtype=dtype):
            x, eps, v, noise = (None if tensor is None else tensor.to(dtype) for tensor in given)
            x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
            x0 = dynamic_threshold(x0, 0.95, 1.5)
            return learned_range_step(x, x0, v, noise, step_coefficients(abar, abar_next))

        yield t, expected, ours, (TABLE[t].item(), 1.0 if after is None else TABLE[after].item())


def distance(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize("name", LISTS)
def test_every_step_is_diffusers_in_double(name, monkeypatch):
    for t, expected, ours, abars in steps_of(LISTS[name], torch.float64, monkeypatch):
        assert distance(ours(*abars), expected) < 1e-9, t


@pytest.mark.parametrize("name", LISTS)
def test_every_step_is_diffusers_in_single(name, monkeypatch):
    """Ours is the exact step to 1e-6 at every t; diffusers' is as far from it as a table in float32 makes it.

    The step divides by 1 - abar, which is 4e-5 at t = 0: moving abar by the rounding of a float32 moves the exact
    step by up to 2e-4 below t = 100. How far is measured, in double precision, and is all the room there is
    beside a float32 arithmetic's 3e-6.
    """
    for t, expected, ours, (abar, after) in steps_of(LISTS[name], torch.float32, monkeypatch):
        exact = ours(abar, after, dtype=torch.float64)
        assert distance(ours(abar, after), exact) < 1e-6, t
        signs = itertools.product((-1, 1), (-1, 1) if after < 1 else (0,))
        moved = max(
            distance(ours(abar * (1 + a * FLOAT32), after * (1 + b * FLOAT32), dtype=torch.float64), exact)
            for a, b in signs
        )
        error = distance(ours(abar, after), expected)
        assert error < 3e-6 + moved, (t, error, moved)
        assert t <= 100 or error < 2e-5, (t, error)


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
