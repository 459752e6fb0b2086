"""Injection among others: areas, masks, other guiders, extra passes, ControlNets, other attention patches."""

from typing import Any

import comfy.controlnet
import comfy.samplers
import node_helpers
import pytest
import torch
from blockwork.blocks.spec import parse
from blockwork.injection import host
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection
from blockwork.injection.host_change import Change
from blockwork.tests.host.injection_kit import (
    Recorder,
    carry,
    cfg_guider,
    latent,
    predictions,
    prompt,
    sample,
    tiny_model,
    worst,
)
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple

COND, UNCOND = 0, 1
SIDE = 16
LEFT, RIGHT = (SIDE, SIDE // 2, 0, 0), (SIDE, SIDE // 2, 0, SIDE // 2)


@pytest.fixture(scope="module")
def model():
    return tiny_model("sd1")


@pytest.fixture
def prompts():
    """Positive, negative and the injected prompt."""
    return prompt(1), prompt(2), prompt(3)


def placed(conditioning, **values):
    return node_helpers.conditioning_set_values(conditioning, values)


def run(model, positive, negative, **options) -> Recorder:
    return predictions(model, positive, negative, noise=latent(side=SIDE), **options)


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


class StubControl(comfy.controlnet.ControlBase):
    """A ControlNet without weights: residuals that depend on the text it is given, which it writes down."""

    def __init__(self):
        super().__init__()
        self.contexts: list[torch.Tensor] = []
        self.residuals: list[torch.Tensor] = []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        context = cond.get("crossattn_controlnet", cond["c_crossattn"])
        self.contexts.append(context.clone())
        level = context.mean(dim=(1, 2))[:, None, None, None] * 10
        bottom = -(-x_noisy.shape[-2] // 8), -(-x_noisy.shape[-1] // 8)
        middle = level * torch.ones(x_noisy.shape[0], 64, *bottom)
        self.residuals.append(middle)
        return {"input": [], "middle": [middle], "output": []}

    def copy(self):
        return self

    def pre_run(self, model, percent_to_timestep_function):
        pass

    def cleanup(self):
        pass

    def get_models(self):
        return []


@pytest.mark.parametrize("sides", ["both", "positive"])
def test_controlnet_sees_the_base_prompt(model, prompts, sides):
    """T18: residuals and the ControlNet's own context are the same with and without injection."""
    positive, negative, other = prompts

    def controlled(one, two):
        stub = StubControl()
        one = placed(one, control=stub, control_apply_to_uncond=False)
        two = placed(two, control=stub, control_apply_to_uncond=False) if sides == "both" else two
        return stub, one, two

    stub, one, two = controlled(positive, negative)
    base = run(model, one, two)
    injected_stub, one, two = controlled(carry(model, positive, other), negative)
    got = run(host.prepare(model), one, two)
    assert got.passes == base.passes
    pairs = [*zip(stub.contexts, injected_stub.contexts, strict=True)]
    pairs += zip(stub.residuals, injected_stub.residuals, strict=True)
    assert pairs and all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert worst(got.predictions[0][COND], base.predictions[0][COND]) > 0.05


def test_controlnet_with_the_injected_prompt(model, prompts):
    """ControlNet prompt choice: its rows of the positive are X, the negative's stay, still in one pass."""
    positive, negative, other = prompts
    stub = StubControl()
    change = Change((), controlnet=other[0][0])
    one = placed(change.on(positive), control=stub)
    two = placed(negative, control=stub)
    got = run(host.prepare(model), one, two)
    assert got.passes == 1
    assert torch.equal(stub.contexts[0], torch.cat([negative[0][0], other[0][0]]))
    own = prompt(6)[0][0]  # what core's CLIPTextEncodeControlnet puts on the other side stays
    kept = StubControl()
    one, two = placed(one, control=kept), placed(negative, control=kept, cross_attn_controlnet=own)
    run(host.prepare(model), one, two)
    assert torch.equal(kept.contexts[0], torch.cat([own, other[0][0]]))


def image_prompt(q, k, v, options):
    """What IPAdapter does: attention to the text plus attention to image tokens, in an attn2_replace."""
    heads = options["n_heads"]
    rows = q.shape[0] // len(options["cond_or_uncond"])
    generator = torch.Generator().manual_seed(11)
    image = torch.randn(rows, 4, k.shape[-1], generator=generator)
    image = torch.cat([image * (1.0 if side == 0 else 0.0) for side in options["cond_or_uncond"]])
    attend = comfy.ldm.modules.attention.optimized_attention
    return attend(q, k, v, heads=heads) + 0.5 * attend(q, image, image, heads=heads)


@pytest.mark.parametrize("first", ["injection", "other"])
def test_attention_replacement(model, prompts, first):
    """T19: an IPAdapter-like replacement works on injected contexts, whichever node comes first."""
    positive, negative, other = prompts

    def replaced(one):
        one = one.clone()
        for block, number in [("input", 4), ("middle", 0), ("output", 5)]:
            one.set_model_attn2_replace(image_prompt, block, number)
        return one

    base = run(replaced(model), positive, negative)
    expected = run(replaced(model), other, negative)
    both = replaced(host.prepare(model)) if first == "injection" else host.prepare(replaced(model))
    got = run(both, carry(model, positive, other), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])


def negpip(n, k, v, options):
    """What NegPip does: its CLIP lays keys and values out in turn, its patch takes them apart."""
    return n, k[:, 0::2], v[:, 1::2]


@pytest.mark.parametrize("first", ["injection", "other"])
@pytest.mark.parametrize("part", ["kv", "k", "v"])
def test_interleaved_contexts(model, first, part):
    """T19: NegPip's patch sees the injected context: taken apart after injection, in either order."""
    positive, negative, other = prompt(1, 154), prompt(2, 154), prompt(3, 154)

    def patched(one):
        one = one.clone()
        one.set_model_attn2_patch(negpip)
        return one

    whole = other if part == "kv" else [[other[0][0].clone(), other[0][1]]]
    if part != "kv":  # keys stand at even places, values at odd ones
        kept = slice(1, None, 2) if part == "k" else slice(0, None, 2)
        whole[0][0][:, kept] = positive[0][0][:, kept]
    base = run(patched(model), positive, negative)
    expected = run(patched(model), whole, negative)
    both = patched(host.prepare(model)) if first == "injection" else host.prepare(patched(model))
    got = run(both, carry(model, positive, other, part=part), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])


def spread(n, k, v, options):
    """What attention couple does: every row twice, the second time with another region's context."""
    region = prompt(8)[0][0].expand(k.shape[0], -1, -1)
    return torch.cat([n, n]), torch.cat([k, region]), torch.cat([v, region])


def fold(n, options):
    """Attention couple's other half: the regions folded back into the rows."""
    return 0.5 * n.chunk(2)[0] + 0.5 * n.chunk(2)[1]


@pytest.mark.parametrize("first", ["injection", "other"])
def test_rows_spread_by_another_patch(model, prompts, first):
    """T19: attention couple multiplies rows after injection, in either order of the nodes."""
    positive, negative, other = prompts

    def coupled(one):
        one = one.clone()
        one.set_model_attn2_patch(spread)
        one.set_model_attn2_output_patch(fold)
        return one

    expected = run(coupled(model), other, negative)
    both = coupled(host.prepare(model)) if first == "injection" else host.prepare(coupled(model))
    got = run(both, carry(model, positive, other), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], expected.predictions[0][UNCOND])


def test_a_context_changed_before_injection(model, prompts):
    """A patch that runs before ours (hooks put theirs first) changes the base that a lerp mixes with."""
    positive, negative, other = prompts
    patched = host.prepare(model)
    patches = patched.model_options["transformer_options"]["patches"]["attn2_patch"]
    patches.insert(0, lambda n, k, v, options: (n, k * 2, v * 2))
    double = [[positive[0][0] * 2 * 0.5 + other[0][0] * 0.5, positive[0][1]]]
    expected = run(model, double, [[negative[0][0] * 2, negative[0][1]]])
    got = run(patched, carry(model, positive, other, mode="lerp", weight=0.5), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], expected.predictions[0][UNCOND])


def test_rearranged_batches_are_left_alone(model, prompts, caplog):
    """A function wrapper that runs tiles as extra rows: never wrong rows, but none, and one warning."""
    positive, negative, other = prompts

    def tiles(apply_model, arguments: dict[str, Any]):
        x, t, c = arguments["input"], arguments["timestep"], dict(arguments["c"])
        c["c_crossattn"] = c["c_crossattn"].repeat(2, 1, 1)
        return apply_model(x.repeat(2, 1, 1, 1), t.repeat(2), **c).chunk(2)[0]

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(tiles)
    base = run(tiled, positive, negative, steps=2)
    got = run(host.prepare(tiled), carry(model, positive, other), negative, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(got.predictions[0], base.predictions[0], strict=True))
    warnings = [record for record in caplog.records if "rearranged" in record.message]
    assert len(warnings) == 1


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
    assert twice.model_options["transformer_options"]["patches"]["attn2_patch"] == [host.attn2_patch]
    first = sample(cfg_guider(once, injected, negative), latent(), steps=2)
    sample(cfg_guider(twice, carry(model, injected, prompt(5)), negative), latent(), steps=2)
    assert torch.equal(sample(cfg_guider(twice, injected, negative), latent(), steps=2), first)
    assert host.KEY not in once.model_options["transformer_options"]


def test_an_unprepared_model_says_so(model, prompts):
    positive, negative, other = prompts
    with pytest.raises(host.NotPrepared, match="Connect the MODEL output"):
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
