"""Injection beside other patches of the same layers: ControlNets, IPAdapter, NegPip, attention couple, tiles."""

from typing import Any

import comfy.controlnet
import comfy.ldm.modules.attention
import pytest
import torch
from blockwork.injection import host
from blockwork.injection.host_change import Change
from blockwork.tests.support.injection_kit import (
    COND,
    UNCOND,
    carry,
    placed,
    prompt,
    run,
    tiny_model,
    worst,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model("sd1")


@pytest.fixture
def prompts():
    """Positive, negative and the injected prompt."""
    return prompt(1), prompt(2), prompt(3)


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
