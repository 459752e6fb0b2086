"""Per-block prompts on transformers with cross-attention: the laws of the U-Net, on ComfyUI's own classes."""

import importlib
import inspect
from types import SimpleNamespace

import comfy.ldm.cascade.stage_b
import comfy.ldm.flux.model
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import pytest
import torch
from blockwork.blocks.walk import NotAUNet
from blockwork.injection import host
from blockwork.injection.host_transformers import layers_of
from blockwork.nodes.injection import InjectIntoBlocks, InjectionPlan
from blockwork.tests.support import transformer_kit as kit
from blockwork.tests.support.injection_kit import (
    COND,
    UNCOND,
    carry,
    cfg_guider,
    placed,
    predictions,
    sample,
    worst,
)

SLOTS = (
    "wan",
    "wan_vace",
    "wan_causal",
    "kandinsky",
    "stable_audio",
    "ltxv",
    "ltx2",
    "hunyuan",
)  # with a slot
LIKE = {"ltx23", "stable_audio_3"}  # variants: the test of keys and values alone
SIZES = {"pixart": (68, 34)}  # of a latent for areas: ComfyUI divides by zero on smaller ones there


@pytest.fixture(scope="module", params=[kind for kind in kit.MODELS if kind not in LIKE])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    return kit.MODELS[kind]()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():  # as ComfyUI runs its nodes
        yield


def run(kind, model, positive, negative, batch=1, **options):
    return predictions(model, positive, negative, noise=kit.noise(kind, batch), batch=batch, **options)


def pooled(kind):
    return kind in ("kandinsky", "hunyuan", "cascade")


@pytest.mark.parametrize(("batch", "cfg"), [(1, 1.0), (3, 4.0)])
def test_x_in_all_blocks_is_x_and_nothing_is_nothing(kind, model, batch, cfg):
    own, negative, x = (kit.prompt(kind, seed) for seed in (1, 2, 3))
    base = run(kind, model, own, negative, batch, cfg=cfg)
    expected = run(kind, model, x, negative, batch, cfg=cfg)
    got = run(
        kind,
        host.prepare(model),
        carry(model, own, x, pooled=pooled(kind)),
        negative,
        batch,
        cfg=cfg,
    )
    off = run(kind, host.prepare(model), carry(model, own, x, weight=0.0), negative, batch, cfg=cfg)
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(off.predictions[0][COND], base.predictions[0][COND])
    assert worst(got.predictions[0][COND], base.predictions[0][COND]) > 1e-3
    if cfg > 1:
        assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])
    assert got.passes == expected.passes and off.passes == base.passes


def test_the_negative_alone(kind, model):
    own, negative, x = (kit.prompt(kind, seed) for seed in (1, 2, 3))
    base, expected = run(kind, model, own, negative), run(kind, model, own, x)
    injected = carry(model, negative, x, pooled=pooled(kind))
    got = run(kind, host.prepare(model), own, injected)
    assert torch.equal(got.predictions[0][COND], base.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], expected.predictions[0][UNCOND])


@pytest.mark.parametrize("tokens", [24, 20])
def test_another_token_count(kind, model, tokens):
    """Within 1e-5: rows of two lengths are repeated to one, as ComfyUI repeats them, or run apart."""
    own, negative, x = kit.prompt(kind, 1), kit.prompt(kind, 2), kit.prompt(kind, 3, tokens)
    expected = run(kind, model, x, negative)
    base = run(kind, model, own, negative)
    got = run(kind, host.prepare(model), carry(model, own, x, pooled=pooled(kind)), negative)
    assert worst(got.predictions[0][COND], expected.predictions[0][COND]) < 1e-5
    other = (
        expected if kind == "cascade" else base
    )  # Cascade: ComfyUI repeats the negative, which is not neutral there
    assert worst(got.predictions[0][UNCOND], other.predictions[0][UNCOND]) < 1e-5


def test_blocks_weights_and_windows(kind, model):
    """One block is not all; the share of a lerp counts; out of its time nothing acts."""
    own, negative, x = (kit.prompt(kind, seed) for seed in (1, 2, 3))
    base = run(kind, model, own, negative, steps=3)
    seen = [base]
    for spec in ("B00", "B01-B02", "idx:1", "all=0.5"):
        seen.append(run(kind, host.prepare(model), carry(model, own, x, spec), negative, steps=3))
    firsts = [one.predictions[0][COND] for one in seen]
    assert all(worst(a, b) > 1e-4 for n, a in enumerate(firsts) for b in firsts[:n])
    late = run(kind, host.prepare(model), carry(model, own, x, "all@s1-2"), negative, steps=3)
    assert torch.equal(late.predictions[0][COND], base.predictions[0][COND])
    assert not torch.equal(late.predictions[1][COND], base.predictions[1][COND])


def test_two_samplers_and_chained_injections(kind, model):
    own, negative, x, y = (kit.prompt(kind, seed) for seed in (1, 2, 3, 4))
    chained = carry(model, carry(model, own, y), x, pooled=pooled(kind))
    for sampler in ("euler", "heun"):
        images = [
            sample(cfg_guider(one, conditioning, negative), kit.noise(kind), steps=3, sampler=sampler)
            for one, conditioning in ((model, x), (host.prepare(host.prepare(model)), chained))
        ]
        assert all(map(torch.equal, *(getattr(image, "tensors", [image]) for image in images)))


@pytest.mark.parametrize("kind", kit.MODELS)
def test_keys_and_values(kind):
    model = kit.MODELS[kind]()
    own, negative, x = (kit.prompt(kind, seed) for seed in (1, 2, 3))
    expected = run(kind, model, x, negative).predictions[0]
    base = run(kind, model, own, negative).predictions[0]
    ready = host.prepare(model)
    keys = run(kind, ready, carry(model, own, x, part="k"), negative).predictions[0][COND]
    values = run(kind, ready, carry(model, own, x, "all/v"), negative).predictions[0][COND]
    first = carry(model, own, x, part="k", pooled=pooled(kind))
    both = run(kind, ready, carry(model, first, x, part="v", pooled=pooled(kind)), negative).predictions[0]
    assert torch.equal(both[COND], expected[COND]) and torch.equal(both[UNCOND], base[UNCOND])
    assert min(worst(keys, base[COND]), worst(values, base[COND]), worst(keys, values)) > 1e-4


def test_areas(kind, model):
    if len(kit.LATENTS[kind]) != 3:
        pytest.skip("areas of this model's latents are not two-dimensional in ComfyUI")
    own, negative, x = (kit.prompt(kind, seed) for seed in (1, 2, 3))
    height, width = SIZES.get(kind, kit.LATENTS[kind][1:])
    upper, lower = (height // 2, width, 0, 0), (height // 2, width, height // 2, 0)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(1, kit.LATENTS[kind][0], height, width, generator=generator)

    def areas(one, first):
        both = placed(first, area=upper, strength=1.0) + placed(kit.prompt(kind, 4), area=lower, strength=1.0)
        return predictions(one, both, negative, noise=noise)

    base, expected = areas(model, own), areas(model, x)
    got = areas(host.prepare(model), carry(model, own, x, pooled=pooled(kind)))
    assert torch.equal(got.predictions[0][COND], expected.predictions[0][COND])
    assert torch.equal(got.predictions[0][UNCOND], base.predictions[0][UNCOND])


def test_a_patch_in_the_slot_stays(kind, model):
    """Another node's patch of a block, set before or after: both act."""
    if kind not in SLOTS:
        pytest.skip("this model's blocks have no slot")
    own, negative, x = (kit.prompt(kind, seed) for seed in (1, 2, 3))
    result = "x" if kind == "kandinsky" else "img"
    seen = []

    def double(args, extra):
        seen.append(1)
        out = extra["original_block"](args)[result]
        return {result: tuple(one * 1.5 for one in out) if isinstance(out, tuple) else out * 1.5}

    def slotted(one):
        one = one.clone()
        one.set_model_patch_replace(double, "dit", "double_block", 1)
        return one

    injected = carry(model, own, x, pooled=pooled(kind))
    got = [
        run(kind, one, injected, negative).predictions[0][COND]
        for one in (slotted(host.prepare(model)), host.prepare(slotted(model)))
    ]
    assert torch.equal(*got) and seen
    if kind != "kandinsky":  # ComfyUI's own slot raises TypeError there
        assert torch.equal(got[0], run(kind, slotted(model), x, negative).predictions[0][COND])


def test_the_plan_and_the_names(kind, model):
    own, x = kit.prompt(kind, 1), kit.prompt(kind, 3)
    ready, injected = InjectIntoBlocks.execute(model, own, x, blocks="B01=0.5").result
    images, text = InjectionPlan.execute(ready, injected).result
    assert "replace 0.5 in B01" in text and images.shape[0] == 1
    with pytest.raises(ValueError, match=r"with cross-attention: B00 B01 B02( B03)?\. Groups: all"):
        InjectIntoBlocks.execute(model, own, x, blocks="IN07")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (comfy.ldm.flux.model.Flux, "joint attention"),
        (comfy.ldm.qwen_image.model.QwenImageTransformer2DModel, "joint attention"),
        (comfy.ldm.cascade.stage_b.StageB, "pooled embedding of the prompt only.*Stage C"),
    ],
)
def test_refusals_name_the_model_and_the_reason(network, reason):
    with pytest.raises(NotAUNet, match=rf"{network.__name__}.*{reason}"):
        layers_of(SimpleNamespace(diffusion_model=network.__new__(network)))


def test_every_wan_that_is_accepted_hands_its_blocks_the_text():
    """Read in ComfyUI's source: the text after ``text_embedding`` is an argument of each block's slot."""

    def kinds(one):
        return {one, *(found for child in one.__subclasses__() for found in kinds(child))}

    importlib.import_module("comfy.model_base")  # imports every kind of Wan
    for one in kinds(comfy.ldm.wan.model.WanModel):
        layers_of(SimpleNamespace(diffusion_model=one.__new__(one)))
        source = inspect.getsource(one.forward_orig)
        assert "self.text_embedding(context)" in source and '"txt": context' in source, one
