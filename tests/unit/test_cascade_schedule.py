"""Respacing strings and noise tables against the released lists, the original function and diffusers."""

import pytest
from blockwork.cascade.schedule import (
    NAMED_SPACINGS,
    alphas_cumprod,
    respaced_timesteps,
    sigmas,
    trailing,
)
from diffusers import DDPMScheduler
from diffusers.pipelines.deepfloyd_if import timesteps as released


@pytest.mark.parametrize("name", NAMED_SPACINGS)
def test_named_spacings_are_the_released_lists(name):
    assert respaced_timesteps(name) == getattr(released, f"{name}_timesteps")


@pytest.mark.parametrize(
    "spec",
    [
        "150",
        "1000",
        "1",
        "ddim50",
        "ddim250",
        "20,20,20,20,10,0,0,0,0,0",
        "10,10,10,10,10,10,10,10,0,0",
        "3,0,1,7",
    ],
)
def test_strings_match_the_original_function(spec):
    from deepfloyd_if.model.respace import space_timesteps

    assert respaced_timesteps(spec) == sorted(space_timesteps(1000, spec), reverse=True)


@pytest.mark.parametrize("steps", [100, 300, 999])
def test_other_lengths_match_the_original_function(steps):
    from deepfloyd_if.model.respace import space_timesteps

    assert respaced_timesteps("10,15,20", steps) == sorted(space_timesteps(steps, "10,15,20"), reverse=True)


@pytest.mark.parametrize(
    "spec", ["", "fast28", "ddim", "ddim7000", "ddim300", "1,x", "1001", "-1,5", "0,0", "1.5"]
)
def test_nonsense_is_refused(spec):
    with pytest.raises(ValueError):
        respaced_timesteps(spec)


def test_fast27_starts_at_the_very_top():
    assert respaced_timesteps("fast27")[:3] == [999, 800, 799]


@pytest.mark.parametrize(("denoise", "kept"), [(1.0, 27), (0.5, 13), (0.0, 0)])
def test_trailing_keeps_the_low_noise_end(denoise, kept):
    timesteps = respaced_timesteps("smart27")
    assert trailing(timesteps, denoise) == (timesteps[-kept:] if kept else [])


def test_denoise_out_of_range_is_refused():
    with pytest.raises(ValueError, match="denoise"):
        trailing([3, 2, 1], 1.5)


def test_cosine_table_is_diffusers():
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    ours = alphas_cumprod("cosine")
    assert ((ours - theirs).abs() / theirs).max() < 2e-5  # theirs is a float32 running product
    assert sigmas("cosine")[999].item() == pytest.approx(20291.3, rel=1e-4)


def test_linear_table_is_diffusers():
    theirs = DDPMScheduler(beta_schedule="linear").alphas_cumprod.double()
    assert ((alphas_cumprod("linear") - theirs).abs() / theirs).max() < 2e-5


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="cosine, linear"):
        sigmas("sqrt")
