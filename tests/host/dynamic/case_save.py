"""Saving a merge that is loaded: no weight may be merged twice."""

import kit
import torch
from blockwork.demo_models import host as demo
from blockwork.merge.live import host


def moved(clip, amount=0.05):
    """Move every weight of a text encoder."""
    generator = torch.Generator().manual_seed(7)
    for parameter in clip.cond_stage_model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * amount
        parameter.data = (parameter.float() + noise).to(parameter.dtype)
    return clip


def halves(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.float() * 0.5 + b.float() * 0.5).to(a.dtype)


def test_a_saved_merge_holds_every_tensor_merged_once():
    a, b = demo.load_model("base"), demo.load_model("ink")
    state_a, state_b = (model.model_state_dict("diffusion_model.") for model in (a, b))
    expected = {key: halves(state_a[key], state_b[key]) for key in state_a}
    merged = host.merge_models(a, b, "0.5")[0]
    saved = kit.saved(merged)
    assert saved.keys() == expected.keys()
    assert [key for key in saved if not torch.equal(saved[key], expected[key])] == []


def test_a_saved_merge_of_text_encoders_holds_every_tensor_merged_once():
    a, b = demo.load_clip(), moved(demo.load_clip())
    states = [clip.patcher.model_state_dict() for clip in (a, b)]
    expected = {
        key: halves(states[0][key], states[1][key]) for key in states[0] if states[0][key].is_floating_point()
    }
    merged, plan = host.merge_clips(a, b, 0.5)
    saved = kit.saved(merged.patcher, "")
    assert plan.merged
    assert [key for key in plan.merged if not torch.equal(saved[key], expected[key])] == []
