"""The atelier's cascade means something: it draws what it is told, and thresholding saves strong guidance."""

import comfy.samplers
import comfy.sd
import pytest
import torch
from atelier.study_thresholding import THINGS, prompts, read
from blockwork.atelier.stages import stage_file
from blockwork.cascade import host_load, keys, unet
from blockwork.cascade.host_threshold import Threshold
from safetensors.torch import load_file

from atelier import pixels

DYNAMIC = Threshold("dynamic", 0.95, bound="pixels")


@pytest.fixture(scope="module")
def strong():
    """What the judge says of guidance 15 without and with dynamic thresholding: same prompts, same noise."""
    return {
        name: read(pixels.drawn(prompts(), 15.0, threshold))
        for name, threshold in (("none", Threshold("none")), ("dynamic", DYNAMIC))
    }


def test_stage_one_draws_what_it_is_told():
    found = read(pixels.drawn(prompts(), 3.0))
    print(found)
    assert found["colour"] >= 0.8
    assert found["shape"] >= 0.5


def test_dynamic_thresholding_halves_saturated_pixels(strong):
    print(strong)
    assert strong["none"]["saturated"] > 0.1
    assert strong["dynamic"]["saturated"] < 0.5 * strong["none"]["saturated"]


def test_dynamic_thresholding_keeps_the_meaning(strong):
    for what in ("shape", "colour"):
        assert strong["dynamic"][what] >= strong["none"][what]


@pytest.mark.parametrize("stage", ["I", "II"])
def test_the_files_load_by_both_paths(stage):
    """Our loader and core's Load Diffusion Model, which goes by the original keys, give the same model."""
    path = str(stage_file(stage))
    ours = host_load.load_stage(path)
    core = comfy.sd.load_diffusion_model(path)
    assert type(ours.model) is type(core.model)
    assert ours.model.config.super_resolution == (stage == "II")
    wanted = ours.model.diffusion_model.state_dict()
    found = core.model.diffusion_model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    state_dict = load_file(path)
    assert keys.format_of(state_dict) == "original"
    assert unet.describe(keys.to_diffusers(state_dict)) == ours.model.config


def test_core_samplers_draw_with_it():
    """Pictures of a core sampler are as good as those of ours, at the same number of steps."""
    sampler = comfy.samplers.sampler_object("dpmpp_2m")
    found = read(pixels.drawn(prompts()[:12], 3.0, sampler=sampler), THINGS[:12])
    print(found)
    assert found["colour"] >= 0.7


def test_stage_two_enlarges_what_stage_one_drew():
    some = prompts()[:4]
    below = pixels.drawn(some, 3.0)
    above = pixels.enlarged(below, some)
    again = torch.nn.functional.avg_pool2d(above, 4)
    error = (again - below.clamp(-1, 1)).square().mean().sqrt()
    print(float(error))
    assert above.shape == (4, 3, 64, 64)
    assert error < 0.15
