"""Conditionings that other nodes change, copy or leave out: CLIP hooks, zeros, CFG 1, copies, text lengths."""

import copy
import io
import pickle

import comfy.hooks
import pytest
import torch
from blockwork.blocks.spec import Window
from blockwork.injection import host
from blockwork.injection.entries import InjectionError
from blockwork.tests.support.injection_kit import COND, UNCOND, carry, placed, prompt, run, worst

from nodes import ConditioningZeroOut


def test_hooks_of_the_clip(model, prompts):
    """A CLIP with LoRA hooks puts them on every prompt: the same as the base's are no obstacle, others are."""
    positive, _, other = prompts

    def with_hooks(conditioning, group):
        return placed(conditioning, hooks=group)

    group, again = comfy.hooks.HookGroup(), comfy.hooks.HookGroup()
    group.add(comfy.hooks.WeightHook())
    again.add(comfy.hooks.WeightHook())
    same = carry(model, with_hooks(positive, group), with_hooks(other, group.clone()))
    assert len(same) == 1
    with pytest.raises(InjectionError, match="Use one CLIP for both"):
        carry(model, with_hooks(positive, group), with_hooks(other, again))


def test_a_zeroed_conditioning(model, prompts, caplog):
    """Zeros made after the injection (cubiq/prompt_injection 4) are zeros; an injection into zeros stays."""
    positive, _, other = prompts

    def zero(conditioning):
        return ConditioningZeroOut().zero_out(conditioning)[0]

    plain = run(model, positive, zero(positive))
    got = run(host.prepare(model), positive, zero(carry(model, positive, other)))
    assert all(torch.equal(a, b) for a, b in zip(got.predictions[0], plain.predictions[0], strict=True))
    assert "set to zeros after" in caplog.text
    expected = run(model, positive, other)
    got = run(host.prepare(model), positive, carry(model, zero(positive), other))
    assert torch.equal(got.predictions[0][UNCOND], expected.predictions[0][UNCOND])


def test_an_injected_negative_at_cfg_one(model, prompts, caplog):
    positive, negative, other = prompts
    run(host.prepare(model), positive, carry(model, negative, other))
    assert "CFG 1" not in caplog.text
    run(host.prepare(model), positive, carry(model, negative, other), cfg=1.0)
    assert "at CFG 1 the negative is not evaluated" in caplog.text


def test_copies_and_pickles(model, prompts):
    """Packs copy a CONDITIONING at every step (CADS) or save it."""
    positive, negative, other = prompts
    injected = carry(model, positive, other, "coarse=0.5@0-0.6", mode="lerp")
    expected = run(host.prepare(model), injected, negative)
    saved = io.BytesIO()
    torch.save(injected, saved)
    saved.seek(0)
    for one in (
        copy.deepcopy(injected),
        pickle.loads(pickle.dumps(injected)),
        torch.load(saved, weights_only=False),
    ):
        got = run(host.prepare(model), one, negative)
        assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])


@pytest.mark.parametrize("lengths", [(308, 385, 231), (77, 85, 77), (77, 64, 77), (77, 248, 77)])
def test_lengths_that_comfyui_would_not_batch(model, lengths):
    """Conditionings whose contexts have no small common length run apart, as ComfyUI runs them; X is exact."""
    own, x, negative = (prompt(seed, tokens) for seed, tokens in enumerate(lengths, 1))
    base, expected = run(model, own, negative), run(model, x, negative)
    got = run(host.prepare(model), carry(model, own, x), negative)
    assert got.passes == expected.passes == 2
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert worst(got.predictions[0][UNCOND], base.predictions[0][UNCOND]) < 2e-6
    off = run(host.prepare(model), carry(model, own, x, windows=[Window(5, 9, "step")]), negative)
    assert off.passes == base.passes
    assert torch.equal(off.predictions[0][COND], base.predictions[0][COND])
