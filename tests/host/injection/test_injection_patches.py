"""Injection beside other patches of the same layers: ControlNets, IPAdapter, NegPip, attention couple, tiles."""

from typing import Any

import comfy.controlnet
import comfy.hooks
import comfy.ldm.modules.attention
import pytest
import torch
from blockwork.blocks.spec import Window
from blockwork.injection import host, host_carry, host_layers
from blockwork.injection.entries import InjectionError
from blockwork.injection.mixing import Mix
from blockwork.injection.passes import Chunk, Pass
from blockwork.tests.support.injection_kit import COND, UNCOND, carry, placed, prompt, run, worst


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
    injected = carry(model, positive, other, for_controlnet=True)
    got = run(host.prepare(model), placed(injected, control=stub), placed(negative, control=stub))
    assert got.passes == 1
    assert torch.equal(stub.contexts[0], torch.cat([negative[0][0], other[0][0]]))
    own = prompt(6)[0][0]  # what core's CLIPTextEncodeControlnet puts on the other side stays
    kept = StubControl()
    one, two = placed(injected, control=kept), placed(negative, control=kept, cross_attn_controlnet=own)
    run(host.prepare(model), one, two)
    assert torch.equal(kept.contexts[0], torch.cat([own, other[0][0]]))


def test_controlnet_prompts_follow_weight_mode_and_time(model, prompts):
    """The ControlNet's prompt is mixed as the blocks mix, while they do: nothing at weight 0 or out of time."""
    positive, negative, other = prompts

    def contexts(**options):
        stub = StubControl()
        injected = carry(model, positive, other, for_controlnet=True, **options)
        run(host.prepare(model), placed(injected, control=stub), placed(negative, control=stub), steps=3)
        return [context[1:] for context in stub.contexts]

    own, x = positive[0][0], other[0][0]
    assert all(torch.equal(one, own * 0.7 + x * 0.3) for one in contexts(mode="lerp", weight=0.3))
    assert all(torch.equal(one, torch.cat([own, x], 1)) for one in contexts(mode="concat"))
    assert all(torch.equal(one, own) for one in contexts(weight=0.0))
    first, *rest = contexts(windows=[Window(1, 2, "step")])[:3]
    assert torch.equal(first, own) and torch.equal(rest[0], x) and torch.equal(rest[1], own)


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


def test_a_patch_placed_in_front_of_ours(model, prompts):
    """Ours is first in every pass, whatever a node or a hook puts in front of it: others see the injected context."""
    positive, negative, other = prompts
    patched = host.prepare(model)
    patches = patched.model_options["transformer_options"]["patches"]["attn2_patch"]
    patches.insert(0, lambda n, k, v, options: (n, k * 2, v * 2))
    double = [[(positive[0][0] * 0.5 + other[0][0] * 0.5) * 2, positive[0][1]]]
    expected = run(model, double, [[negative[0][0] * 2, negative[0][1]]])
    got = run(patched, carry(model, positive, other, mode="lerp", weight=0.5), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], expected.predictions[0][UNCOND])


class Spread(comfy.hooks.TransformerOptionsHook):
    """What prompt-control's COUPLE does: a hook whose patch doubles the rows, and folds them after."""

    def __init__(self):
        super().__init__(hook_scope=comfy.hooks.EnumHookScope.HookedOnly)
        patches = {"attn2_patch": [spread], "attn2_output_patch": [fold]}
        self.transformers_dict = {"patches": patches}


def hooked(conditioning):
    group = comfy.hooks.HookGroup()
    group.add(Spread())
    return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks=group)


def test_a_patch_that_comes_by_a_hook(model, prompts):
    """Hooks merge their patches in front of the model's in every pass; ours still comes first."""
    positive, negative, other = prompts
    expected = run(model, hooked(other), negative)
    got = run(host.prepare(model), hooked(carry(model, positive, other)), negative)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], expected.predictions[0][UNCOND])


def tiled(model, groups):
    """A function wrapper as TiledDiffusion's: the latent in columns, some of them together as further rows."""

    def tiles(apply_model, arguments: dict[str, Any]):
        x, t, out = arguments["input"], arguments["timestep"], torch.zeros_like(arguments["input"])
        for group in groups:
            columns = [slice(8 * n, 8 * n + 8) for n in group]
            c = {
                k: torch.cat([v] * len(group)) if isinstance(v, torch.Tensor) else v
                for k, v in arguments["c"].items()
            }
            rows = apply_model(torch.cat([x[..., s] for s in columns]), torch.cat([t] * len(group)), **c)
            for place, row in zip(columns, rows.chunk(len(group)), strict=True):
                out[..., place] = row
        return out

    model = model.clone()
    model.set_model_unet_function_wrapper(tiles)
    return model


@pytest.mark.parametrize("groups", [((0, 1),), ((0,), (1,))])
@pytest.mark.parametrize("spec", ["all", "coarse=0.4"])
def test_tiles_are_all_injected(model, prompts, groups, spec):
    """Copies of the batch as further rows: each gets the injections of the row it is a copy of."""
    positive, negative, other = prompts
    plain = run(tiled(model, groups), positive, negative)
    got = run(tiled(host.prepare(model), groups), carry(model, positive, other, spec), negative)
    expected = run(tiled(host.prepare(model), ((0,), (1,))), carry(model, positive, other, spec), negative)
    assert torch.equal(got.predictions[0][UNCOND], plain.predictions[0][UNCOND])
    assert worst(got.predictions[0][COND], expected.predictions[0][COND]) < 1e-5
    if spec == "all":
        expected = run(tiled(model, groups), other, negative)
        assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])


def test_other_batches_are_an_error(model, prompts):
    """Rows that cannot be told apart stop the run: never wrong rows, never a part of an image."""
    positive, negative, other = prompts

    def rows(how):
        def wrapper(apply_model, arguments: dict[str, Any]):
            c = {k: how(v) if isinstance(v, torch.Tensor) else v for k, v in arguments["c"].items()}
            return apply_model(how(arguments["input"]), how(arguments["timestep"]), **c)

        changed = host.prepare(model).clone()
        changed.set_model_unet_function_wrapper(wrapper)
        return changed

    for how in (lambda v: v[:1], lambda v: torch.cat([v, v[:1]]), lambda v: v.repeat_interleave(2, 0)):
        with pytest.raises(InjectionError, match="Remove that node"):
            run(rows(how), carry(model, positive, other), negative)


def test_compiled_blocks_follow_the_pass(model, prompts):
    """torch.compile re-uses what it traced: a block whose injection changes later is injected all the same."""
    positive, _, other = prompts
    block = model.model.diffusion_model.middle_block[1].transformer_blocks[0]
    compiled = torch.compile(block, backend="eager")
    x, own = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(1)), positive[0][0]
    layer, patches = ("middle", 0, 0), {"attn2_patch": [host_layers.attn2_patch]}

    def injected(weight):
        mixes = {layer: (Mix("lerp", "kv", weight, other[0][0]),)} if weight else {("input", 1, 0): ()}
        return Pass([Chunk(mixes, 1, 77)], own, own)

    outputs = []
    for current in (None, injected(1.0), injected(0.0), injected(0.4), None):
        options = {"patches": patches, "block": ("middle", 0), "block_index": 0, host_carry.PASS_KEY: current}
        with torch.no_grad():
            expected = block(x, context=own, transformer_options=dict(options))
            outputs.append(compiled(x, context=own, transformer_options=dict(options)))
        assert torch.equal(outputs[-1], expected)
    assert worst(outputs[0], outputs[1]) > 1e-3 and worst(outputs[1], outputs[3]) > 1e-3
