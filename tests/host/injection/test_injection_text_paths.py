"""What belongs to a prompt besides its tokens, places without a slot, and what is left behind: tiny transformers."""

from types import SimpleNamespace

import pytest
import torch
from blockwork.injection import host
from blockwork.injection.entries import InjectionError
from blockwork.injection.host_hooks import uncompiled
from blockwork.nodes.injection import InjectIntoBlocks
from blockwork.tests.support import transformer_kit as kit
from blockwork.tests.support.injection_kit import (
    COND,
    UNCOND,
    carry,
    cfg_guider,
    predictions,
    prompt,
    sample,
    tiny_model,
    worst,
)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def run(kind, model, positive, negative, **options):
    return predictions(model, positive, negative, noise=kit.noise(kind), **options).predictions


def prompts(kind):
    return tuple(kit.prompt(kind, seed) for seed in (1, 2, 3))


def test_masks_are_mixed_with_their_prompts():
    """LTXV: concat joins the masks; a share of a prompt makes its tokens count; one mask stays what it is."""
    model = kit.MODELS["ltxv"]()
    ready, (own, negative, x) = host.prepare(model), prompts("ltxv")
    (a, a_options), (b, b_options) = own[0], x[0]
    mask, other = a_options["attention_mask"], b_options["attention_mask"]
    assert not torch.equal(mask, other)
    both = [[torch.cat([a, b], 1), {**a_options, "attention_mask": torch.cat([mask, other], 1)}]]
    got = run("ltxv", ready, carry(model, own, x, mode="concat"), negative, cfg=1.0)
    assert torch.equal(got[0][COND], run("ltxv", model, both, negative, cfg=1.0)[0][COND])
    mean = [[a * 0.75 + b * 0.25, {**a_options, "attention_mask": torch.maximum(mask, other)}]]
    got = run("ltxv", ready, carry(model, own, x, "all=0.25"), negative)
    assert torch.equal(got[0][COND], run("ltxv", model, mean, negative)[0][COND])
    unmasked = [[b, {key: value for key, value in b_options.items() if key != "attention_mask"}]]
    ones = [[b, {**b_options, "attention_mask": torch.ones_like(other)}]]
    got = run("ltxv", ready, carry(model, own, unmasked), negative)
    assert torch.equal(got[0][COND], run("ltxv", model, ones, negative)[0][COND])


def test_a_mask_that_the_conditioning_has_no_place_for_is_refused():
    model, (own, negative, x) = kit.MODELS["ltx2"](), prompts("ltx2")
    masked = [[x[0][0], {**x[0][1], "attention_mask": torch.ones(1, 12, dtype=torch.long)}]]
    with pytest.raises(InjectionError, match=r"'attention_mask', and the conditioning has none.*same CLIP"):
        run("ltx2", host.prepare(model), carry(model, own, masked), negative)


def test_a_prompt_of_another_clip_is_refused():
    """LTX-2 takes texts of several widths: the conditioning tells which."""
    model = kit.MODELS["ltx2"]()
    with pytest.raises(InjectionError, match=r"768 numbers wide per token, and the conditioning 48.*CLIP"):
        InjectIntoBlocks.execute(model, kit.prompt("ltx2", 1), prompt(2), blocks="all")


def test_hunyuan_pools_t5_by_itself():
    model, (own, negative, x) = kit.MODELS["hunyuan"](), prompts("hunyuan")
    ready = host.prepare(model)
    base, expected = (run("hunyuan", model, one, negative, steps=2) for one in (own, x))
    blocks_only = run("hunyuan", ready, carry(model, own, x), negative)
    assert min(worst(blocks_only[0][COND], one[0][COND]) for one in (base, expected)) > 1e-4
    timed = run("hunyuan", ready, carry(model, own, x, "all@s0-1", pooled=True), negative, steps=2)
    assert torch.equal(timed[0][COND], expected[0][COND])
    assert torch.equal(timed[0][UNCOND], base[0][UNCOND])
    bare = [[x[0][0], {"attention_mask": x[0][1]["attention_mask"]}]]
    with pytest.raises(InjectionError, match=r"has no 'conditioning_mt5xl'.*CLIP of this checkpoint"):
        run("hunyuan", ready, carry(model, own, bare), negative)


def test_the_causal_wan_block_by_block():
    """The autoregressive sampler keeps keys and values of the text from step to step."""
    model, (own, negative, x) = kit.MODELS["wan_causal"](), prompts("wan_causal")

    def image(one, positive):
        return sample(cfg_guider(one, positive, negative, cfg=1.0), kit.noise("wan_causal"), 2, "ar_video")

    got = image(host.prepare(model), carry(model, own, x))
    assert torch.equal(got, image(model, x)) and not torch.equal(got, image(model, own))
    parts = carry(model, carry(model, own, x, part="k"), x, part="v")
    assert torch.equal(image(host.prepare(model), parts), got)
    assert torch.equal(image(host.prepare(model), carry(model, own, x, weight=0.0)), image(model, own))


def test_image_tokens_stay_in_front_of_the_text():
    """Wan image to video, keys and values together and apart."""
    model = kit.wan_i2v()
    seen = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 5, 1280))
    own, negative, x = (
        [[tokens, {**options, "clip_vision_output": seen}] for tokens, options in one]
        for one in prompts("wan")
    )
    expected = run("wan", model, x, negative)[0][COND]
    ready = host.prepare(model)
    assert torch.equal(run("wan", ready, carry(model, own, plain(x)), negative)[0][COND], expected)
    parts = carry(model, carry(model, own, plain(x), part="k"), plain(x), part="v")
    assert worst(run("wan", ready, parts, negative)[0][COND], expected) < 1e-6


def plain(conditioning):
    return [[tokens, {}] for tokens, _ in conditioning]


@pytest.mark.parametrize("kind", ["pixart", "wan_vace", "ltx2", "stable_audio_3"])
def test_no_hook_outlives_a_pass(kind):
    """Neither after a run nor after an error in the middle of one."""
    model, (own, negative, x) = kit.MODELS[kind](), prompts(kind)
    apart = carry(model, own, x, part="k")
    run(kind, host.prepare(model), apart, negative)
    network = model.model.diffusion_model
    broken = list(network.modules())[-1]
    handle = broken.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(kind, host.prepare(model), apart, negative)
    handle.remove()
    assert not any(one._forward_pre_hooks or one._forward_hooks for one in network.modules())


def test_a_compiled_model_without_a_slot_follows_the_blocks_that_are_chosen_later():
    import torch._dynamo
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, (own, negative, x) = kit.MODELS["pixart"](), prompts("pixart")
    compiled = host.prepare(model)
    set_torch_compile_wrapper(compiled, backend="eager", options=None)
    torch._dynamo.reset()
    for blocks in ("B00", "B02"):
        injected = carry(model, own, x, blocks)
        expected = run("pixart", host.prepare(model), injected, negative)[0][COND]
        assert torch.equal(run("pixart", compiled, injected, negative)[0][COND], expected)


def test_the_compiler_is_left_as_it_was():
    import torch._dynamo.eval_frame as frame

    with torch.compiler.set_stance("eager_on_recompile"):
        with uncompiled(), uncompiled():
            assert frame._stance.stance == "force_eager"
        assert frame._stance.stance == "eager_on_recompile"


def test_a_pooled_embedding_that_the_model_does_not_read_changes_nothing():
    """SD1 has no place for one: also with a window, where it is worked out in every pass."""
    model = tiny_model("sd1")
    own, negative, x = (prompt(seed) for seed in (1, 2, 3))
    ready, injected = InjectIntoBlocks.execute(
        model, own, x, blocks="all", end_percent=0.9, pooled="injected"
    ).result
    got = predictions(ready, injected, negative).predictions[0][COND]
    assert torch.equal(got, predictions(model, x, negative).predictions[0][COND])
