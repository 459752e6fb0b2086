"""The demo models' cascade means something: it draws what it is told, and thresholding tames strong guidance."""

import comfy.samplers
import comfy.sd
import pytest
import torch
from blockwork.cascade import host_load, host_model, keys, unet
from blockwork.cascade.host_threshold import Threshold
from blockwork.demo_models.stages import stage_file
from demo_models.study_thresholding import cases, prompts, read
from safetensors.torch import load_file

from demo_models import pixels

DYNAMIC = pixels.THRESHOLDS["dynamic 0.995"]
CHANCE = 1 / 6  # six shapes, six colours


def means(images, of):
    return {name: float(values.mean()) for name, values in read(images, of).items()}


@pytest.fixture(scope="module")
def strong():
    """What the classifier says of guidance 12 without and with dynamic thresholding: same prompts, same noise."""
    some = cases()[:24]
    return {
        name: means(pixels.drawn(prompts(some), 12.0, threshold), some)
        for name, threshold in (("none", Threshold("none")), ("dynamic", DYNAMIC))
    }


def test_dynamic_thresholding_halves_saturated_pixels(strong):
    assert strong["none"]["saturated"] > 0.2
    assert strong["dynamic"]["saturated"] < 0.5 * strong["none"]["saturated"]


def test_dynamic_thresholding_keeps_the_meaning(strong):
    assert strong["dynamic"]["colour"] >= 0.85
    assert strong["dynamic"]["shape"] >= max(0.45, strong["none"]["shape"] - 0.25)
    assert strong["dynamic"]["shape"] > 2.5 * CHANCE


def test_a_core_sampler_samples_what_the_prompt_says():
    """With the loader's own threshold."""
    sampler, some = comfy.samplers.sampler_object("dpmpp_2m"), cases()[:12]
    found = means(pixels.drawn(prompts(some), 4.0, sampler=sampler), some)
    assert found["colour"] >= 0.75, found
    assert found["shape"] >= 0.5, found


def test_stage_two_enlarges_what_stage_one_sampled_without_grain():
    some = cases()[:3]
    below = pixels.drawn(prompts(some), 4.0)
    above = pixels.enlarged(below, prompts(some))
    error = torch.nn.functional.avg_pool2d(above, 4) - below.clamp(-1, 1)
    assert above.shape == (3, 3, 64, 64)
    assert error.square().mean().sqrt() < 0.2
    corner = above[:, :, :6, :6]
    assert float(corner.std((2, 3)).mean()) < 0.08  # of a smooth background
    assert means(above, some)["colour"] == 1.0


@pytest.mark.parametrize("stage", ["I", "II"])
def test_the_files_load_by_both_paths(stage):
    """Our loader and core's Load Diffusion Model, which goes by the original keys, give the same model."""
    host_model.register()  # as the pack does when ComfyUI starts
    path = str(stage_file(stage))
    ours, core = host_load.load_stage(path), comfy.sd.load_diffusion_model(path)
    assert type(ours.model) is type(core.model)
    assert ours.model.config.super_resolution == (stage == "II")
    wanted, found = (model.model.diffusion_model.state_dict() for model in (ours, core))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    state_dict = load_file(path)
    assert keys.format_of(state_dict) == "original"
    assert unet.describe(keys.to_diffusers(state_dict)) == ours.model.config
