"""Injection among others: areas, masks, other guiders, extra passes, context windows, the model's side."""

import pytest
import torch
from blockwork.blocks.spec import parse
from blockwork.injection import host, host_carry, host_layers
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection
from blockwork.injection.host_change import Change
from blockwork.tests.support.injection_kit import (
    COND,
    SIDE,
    UNCOND,
    carry,
    cfg_guider,
    latent,
    placed,
    prompt,
    run,
    sample,
    worst,
)
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple

LEFT, RIGHT = (SIDE, SIDE // 2, 0, 0), (SIDE, SIDE // 2, 0, SIDE // 2)


def test_one_area_of_two(model, prompts):
    """T7: the other area and the un-areaed negative are bit-identical, the injected area is X's."""
    first, negative, other = prompts
    second = prompt(4)

    def areas(left):
        return placed(left, area=LEFT, strength=1.0) + placed(second, area=RIGHT, strength=1.0)

    base = run(model, areas(first), negative)
    expected = run(model, areas(other), negative)
    got = run(host.prepare(model), areas(carry(model, first, other)), negative)
    half = SIDE // 2
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert torch.equal(got.predictions[0][COND][..., half:], base.predictions[0][COND][..., half:])
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert worst(got.predictions[0][COND], base.predictions[0][COND]) > 0.05
    assert got.passes == base.passes


def test_three_masks(model, prompts):
    """T8: three masked prompts, one injected: four chunks in one batch, only the masked part changes."""
    first, negative, other = prompts
    masks = [torch.zeros(1, SIDE, SIDE) for _ in range(3)]
    for i, rows in enumerate((slice(0, 5), slice(5, 10), slice(10, SIDE))):
        masks[i][:, rows] = 1.0

    def masked(one):
        parts = (one, prompt(4), prompt(5))
        return [
            entry
            for part, mask in zip(parts, masks, strict=True)
            for entry in placed(part, mask=mask, mask_strength=1.0)
        ]

    base = run(model, masked(first), negative)
    expected = run(model, masked(other), negative)
    got = run(host.prepare(model), masked(carry(model, first, other)), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert torch.equal(got.predictions[0][COND][..., 5:, :], base.predictions[0][COND][..., 5:, :])
    assert got.passes == base.passes


def test_default_conditionings(model, prompts):
    """T8: a masked prompt with a default one for the rest; injecting the default leaves the masked part."""
    first, negative, other = prompts
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :8] = 1.0

    def with_default(rest):
        return placed(prompt(4), mask=mask, mask_strength=1.0) + placed(rest, default=True)

    base = run(model, with_default(first), negative)
    expected = run(model, with_default(other), negative)
    got = run(host.prepare(model), with_default(carry(model, first, other)), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert worst(got.predictions[0][COND], base.predictions[0][COND]) > 0.05


@pytest.mark.parametrize("target", ["positive", "middle", "negative"])
@pytest.mark.parametrize("nested", [False, True])
def test_dual_cfg(model, prompts, target, nested):
    """T10: of DualCFG's three conditionings, exactly the injected one changes, and becomes X's."""
    first, negative, other = prompts
    names = ["negative", "middle", "positive"]  # the order of its predictions
    plain = {"positive": first, "middle": prompt(4), "negative": negative}

    def guided(conditionings):
        def make(watched):
            guider = Guider_DualCFG(watched)
            guider.set_conds(conditionings["positive"], conditionings["middle"], conditionings["negative"])
            guider.set_cfg(5.0, 3.0, nested=nested)
            return guider

        return make

    base = run(model, None, None, make_guider=guided(plain))
    expected = run(model, None, None, make_guider=guided({**plain, target: other}))
    injected = {**plain, target: carry(model, plain[target], other)}
    got = run(host.prepare(model), None, None, make_guider=guided(injected))
    for i, name in enumerate(names):
        reference = expected if name == target else base
        assert torch.equal(got.predictions[0][i], reference.predictions[0][i])
    assert got.passes == base.passes


@pytest.mark.parametrize("target", [0, 1, 2])
def test_perp_neg(model, prompts, target):
    """T10: the same for Perp-Neg's positive, negative and empty conditionings."""
    first, negative, other = prompts
    plain = [first, negative, prompt(4)]

    def guided(conditionings):
        def make(watched):
            guider = Guider_PerpNeg(watched)
            guider.set_conds(*conditionings)
            guider.set_cfg(5.0, 1.0)
            return guider

        return make

    def swapped(conditioning):
        return [conditioning if i == target else one for i, one in enumerate(plain)]

    base = run(model, None, None, make_guider=guided(plain))
    expected = run(model, None, None, make_guider=guided(swapped(other)))
    injected = swapped(carry(model, plain[target], other))
    got = run(host.prepare(model), None, None, make_guider=guided(injected))
    for i in range(3):
        reference = expected if i == target else base
        assert torch.equal(got.predictions[0][i], reference.predictions[0][i])


def test_self_attention_guidance(model, prompts):
    """T11: SAG evaluates the negative again, at index 0; it stays bit-identical."""
    positive, negative, other = prompts
    guided = SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0]
    base = run(guided, positive, negative)
    got = run(host.prepare(guided), carry(model, positive, other), negative)
    assert len(got.predictions) == len(base.predictions) == 2
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert torch.equal(got.predictions[1][0], base.predictions[1][0])
    assert worst(got.predictions[0][COND], base.predictions[0][COND]) > 0.05


def test_perturbed_attention_guidance(model, prompts):
    """T11: PAG evaluates the positive again; it is injected there too."""
    positive, negative, other = prompts
    guided = PerturbedAttentionGuidance.execute(model, 3.0).result[0]
    expected = run(guided, other, negative)
    got = run(host.prepare(guided), carry(model, positive, other), negative)
    assert len(got.predictions) == 2
    assert torch.equal(got.predictions[1][0], expected.predictions[1][0])


@pytest.mark.parametrize("spec", ["all", "IN04, M00"])
def test_skip_layer_guidance(model, prompts, spec):
    """T11: SLG evaluates the positive again, or both branches apart: the positive is injected, the negative never."""
    positive, negative, other = prompts
    injected = carry(model, positive, other, spec)

    again = SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "1", "1").result[0]
    got, base = run(host.prepare(again), injected, negative), run(again, positive, negative)
    assert len(got.predictions) == len(base.predictions) == 2
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert (
        worst(got.predictions[1][0], got.predictions[0][COND]) < 1e-5
    )  # a U-Net has no layers to skip by number
    assert worst(got.predictions[1][0], base.predictions[1][0]) > 0.01

    apart = SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "1", "1").result[0]
    (first, second), (_, negatives) = (
        run(host.prepare(apart), injected, negative).predictions,
        run(apart, positive, negative).predictions,
    )
    assert torch.equal(second[UNCOND], negatives[UNCOND])
    assert worst(first[COND], got.predictions[1][0]) < 1e-5


def test_context_windows_over_frames(model):
    """Long batches run window by window: every frame keeps its own injected prompt."""
    frames, window = 6, 4
    windowed = ContextWindowsManualNode.execute(
        model, window, 2, "standard_static", 1, False, "pyramid", 0, False
    ).result[0]
    positive, negative, other = prompt(1, batch=frames), prompt(2), prompt(3, batch=frames)

    def sampled(one, conditioning):
        return sample(cfg_guider(one, conditioning, negative), latent(frames), steps=2)

    got = sampled(host.prepare(windowed), carry(model, positive, other))
    assert torch.equal(got, sampled(windowed, other))
    assert worst(got, sampled(windowed, positive)) > 0.01


def test_nothing_is_mutated_or_doubled(model, prompts):
    """T20: inputs stay as they were; preparing twice is preparing once; two samplers share a conditioning."""
    positive, negative, other = prompts
    keys, options = set(positive[0][1]), str(model.model_options)
    tokens = positive[0][0].clone()
    injected = carry(model, positive, other)
    once = host.prepare(model)
    twice = host.prepare(host.prepare(once.clone()))
    assert set(positive[0][1]) == keys and torch.equal(positive[0][0], tokens)
    assert str(model.model_options) == options and not model.wrappers
    for kind in twice.wrappers.values():
        assert len(kind[host.KEY]) == 1
    assert twice.model_options["transformer_options"]["patches"]["attn2_patch"] == [host_layers.attn2_patch]
    first = sample(cfg_guider(once, injected, negative), latent(), steps=2)
    sample(cfg_guider(twice, carry(model, injected, prompt(5)), negative), latent(), steps=2)
    assert torch.equal(sample(cfg_guider(twice, injected, negative), latent(), steps=2), first)
    assert host.KEY not in once.model_options["transformer_options"]


def test_an_unprepared_model_says_so(model, prompts):
    positive, negative, other = prompts
    with pytest.raises(host_carry.NotPrepared, match="Connect the MODEL output"):
        run(model, carry(model, positive, other), negative)


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_the_model_injects_by_name(model, prompts, name):
    """The MODEL-side variant: conditionings stay plain, and the named one is X's, areas included."""
    positive, negative, other = prompts
    blocks = host.blocks_of(model)
    made = injection(parse("all", blocks), stretches(other, blocks))
    by_name = Change((made,)).by_name(model, [name])
    for area in (False, True):
        plain = placed(positive, area=LEFT, strength=1.0) if area else positive
        swapped = placed(other, area=LEFT, strength=1.0) if area else other
        base = run(model, plain, negative)
        expected = run(
            model, swapped if name == "positive" else plain, other if name == "negative" else negative
        )
        got = run(by_name, plain, negative)
        changed, kept = (COND, UNCOND) if name == "positive" else (UNCOND, COND)
        assert torch.equal(got.predictions[0][changed], expected.predictions[0][changed])
        assert torch.equal(got.predictions[0][kept], base.predictions[0][kept])


def test_a_name_no_guider_has(model, prompts):
    positive, negative, _ = prompts
    with pytest.raises(ValueError, match=r"'middle'.*'positive', 'negative'"):
        run(Change(()).by_name(model, ["middle"]), positive, negative)
