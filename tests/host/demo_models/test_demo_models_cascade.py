"""The demo models' cascade means something: it draws what it is told, and thresholding tames strong guidance."""

import comfy.samplers
import comfy.sd
import pytest
import torch
from blockwork.cascade import host_load, host_model, keys, unet
from blockwork.cascade.host_threshold import Threshold
from blockwork.demo_models.stages import stage_file
from demo_models.study_thresholding import THINGS, prompts, read
from safetensors.torch import load_file

from demo_models import pixels

DYNAMIC = Threshold("dynamic", 0.95, bound="pixels")
CHANCE = 1 / 6  # six shapes, six colours


@pytest.fixture(scope="module")
def strong():
    """What the judge says of guidance 15 without and with dynamic thresholding: same prompts, same noise."""
    return {
        name: read(pixels.drawn(prompts(), 15.0, threshold))
        for name, threshold in (("none", Threshold("none")), ("dynamic", DYNAMIC))
    }


def test_dynamic_thresholding_halves_saturated_pixels(strong):
    """Measured: 0.319 without, 0.049 with."""
    assert strong["none"]["saturated"] > 0.2
    assert strong["dynamic"]["saturated"] < 0.5 * strong["none"]["saturated"]


def test_dynamic_thresholding_keeps_the_meaning(strong):
    """Measured: colour 1.0 and 1.0; shape 0.75 and 0.625, a difference that is chance of 24 pictures."""
    assert strong["dynamic"]["colour"] >= 0.85
    assert strong["dynamic"]["shape"] >= max(0.45, strong["none"]["shape"] - 0.25)
    assert strong["dynamic"]["shape"] > 2.5 * CHANCE


def test_on_the_whole_schedule_dynamic_thresholding_saves_the_picture():
    """Measured: without, all pixels saturated and 3 of 12 shapes; with, 0.018 and 10 of 12, all colours."""
    few = prompts()[:12]
    without, saved = (
        read(pixels.drawn(few, 4.0, threshold, spacing=pixels.WHOLE), THINGS[:12])
        for threshold in (Threshold("none"), DYNAMIC)
    )
    assert saved["saturated"] < 0.1 < 0.5 < without["saturated"]
    assert saved["shape"] >= without["shape"] + 0.2
    assert saved["colour"] >= 0.9 > without["colour"]


def test_a_core_sampler_draws_what_it_is_told():
    """With the loader's own threshold."""
    sampler = comfy.samplers.sampler_object("dpmpp_2m")
    found = read(pixels.drawn(prompts()[:12], 4.0, sampler=sampler), THINGS[:12])
    print(found)
    assert found["colour"] >= 0.75
    assert found["shape"] >= 0.5


def test_stage_two_enlarges_what_stage_one_drew():
    some = prompts()[:3]
    below = pixels.drawn(some, 4.0)
    above = pixels.enlarged(below, some)
    error = torch.nn.functional.avg_pool2d(above, 4) - below.clamp(-1, 1)
    print(float(error.square().mean().sqrt()))
    assert above.shape == (3, 3, 64, 64)
    assert error.square().mean().sqrt() < 0.2
    assert read(above, THINGS[:3])["colour"] == 1.0


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
