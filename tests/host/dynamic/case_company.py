"""Everything else of the pack under dynamic loading: the same results as on the plain path, and waits per step."""

import comfy.sd
import comfy.taesd.taesd
import device
import kit
import pytest
import torch
from blockwork.blocks.spec import parse
from blockwork.cascade import host_cascade, host_load, host_model, host_sampler
from blockwork.demo_models import host as demo
from blockwork.deprojector.host import models as deprojectors
from blockwork.injection import host as injection
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection as entry
from blockwork.injection.host_change import Change
from blockwork.merge.live import host
from blockwork.tests.support import cascade_files, quantised_kit


def same(run):
    """Run on both paths; the results are equal bit for bit. Returns the dynamic one."""
    plain, dynamic = kit.both(run)
    assert torch.equal(plain, dynamic)
    return dynamic


def carrying(model, positive, spec, seed=9, **options):
    blocks = injection.blocks_of(model)
    other = kit.prompts(model, seed)[0]
    return Change((entry(parse(spec, blocks), stretches(other, blocks), **options),)).on(positive)


def test_injection_beside_a_merge():
    def run():
        merged = host.merge_models(kit.unet("base"), kit.unet("ink"), "GRAD_V")[0]
        model = injection.prepare(merged)
        positive, negative = kit.prompts(model)
        injected = carrying(model, positive, "IN04@0.2-0.7=0.5, M00, OUT05/k", mode="lerp")
        return torch.stack([kit.sample(model, 2, p, negative) for p in (positive, injected)])

    plain, injected = same(run)
    assert not torch.equal(plain, injected)


def test_merged_vae():
    def run():
        vaes = []
        for seed in (1, 2):
            generator = torch.Generator().manual_seed(seed)
            state = comfy.taesd.taesd.TAESD().state_dict()
            noise = {
                key: (torch.randn(value.shape, generator=generator) * 0.1).bfloat16()
                for key, value in state.items()
            }
            vaes.append(comfy.sd.VAE(sd=noise))
        merged = host.merge_vaes(*vaes, 0.5)[0]
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        result = device.on_host(merged.decode(latent)).clone()
        kit.end_of_node()
        return result

    same(run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_merges_of_every_dtype(dtype):
    def run():
        a, b = (kit.unet(name, dtype=dtype, stored=dtype) for name in ("base", "ink"))
        merged = host.merge_models(a, b, "IN04=0.3, M00=0.7, OUT05=1.5")[0]
        merged = host.add_model_difference(merged, b, a, "IN04=0.4, OUT05=0.6, OUT11=1")[0]
        weights = kit.loaded_weights(kit.load(merged))
        assert dtype in {value.dtype for value in weights.values()}
        return torch.cat([weights[key].flatten().float() for key in sorted(weights)])

    same(run)


HALVES = (torch.float16, torch.bfloat16)
KINDS = [(stored, dtype) for stored in (torch.float32, *HALVES) for dtype in HALVES if stored != dtype]


@pytest.mark.parametrize(("stored", "dtype"), KINDS, ids=str)
def test_files_that_are_computed_in_another_dtype_are_merged_exactly(stored, dtype):
    """Paged weights are merged from what the file holds, rounded once."""
    a, b = (kit.unet(name, dtype=dtype, stored=stored) for name in ("base", "ink"))
    generator = torch.Generator().manual_seed(4)
    for model in (a, b):
        for parameter in model.model.parameters():  # values that the other dtype does not hold
            noise = torch.randn(parameter.shape, generator=generator) * 1e-4
            parameter.data = (parameter.data + noise).to(stored)
    stored_a, stored_b = (host.stored_tensors(model, "diffusion_model.") for model in (a, b))
    merged = host.merge_models(a, b, "0.3")[0]
    have = kit.loaded_weights(kit.load(merged))
    for key in merged.patches:
        exact = (stored_a[key].float() * 0.7 + stored_b[key].float() * 0.3).to(have[key].dtype)
        assert torch.equal(have[key], exact), key


def test_float8_differs_by_a_step_at_most():
    """Core rounds float8 stochastically, with another seed on each path."""

    def run():
        # a float32 file would be rounded to float8 before the merge by the plain loader alone: up to two steps
        kinds = {"dtype": torch.float8_e4m3fn, "stored": torch.float8_e4m3fn}
        a, b = (kit.unet(name, **kinds) for name in ("base", "ink"))
        weights = kit.loaded_weights(kit.load(host.merge_models(a, b, "0.3")[0]))
        return {key: value.float() for key, value in weights.items() if value.dtype == torch.float8_e4m3fn}

    found = kit.both(run)
    keys = sorted(
        found[0].keys() & found[1].keys()
    )  # dynamic loading leaves small modules as the file has them
    plain, dynamic = (torch.cat([weights[key].flatten() for key in keys]) for weights in found)
    steps = (plain - dynamic).abs() / (torch.maximum(plain.abs(), dynamic.abs()) * 2.0**-3).clamp_min(2.0**-9)
    assert steps.numel() > 10**6
    # Core's own rounding finds the exponent with a rounded logarithm, see
    # test_core_rounds_float8_two_steps_off_just_below_a_power_of_two.
    assert float((steps > 1).float().mean()) < 1e-4
    assert float(steps.max()) <= 2


@pytest.mark.parametrize("form", ["fp8_scaled", "int8_convrot", "mxfp8"])
def test_quantised_models(form):
    """Merged within a step, and other blocks saved byte for byte; core computes at the precision of the forward pass.

    Core gives patches a copy in that dtype and takes one back, as with a LoRA; bfloat16 has 8 bits, so that a code of
    127 steps is rounded by a quarter of a step more.
    """
    plain = [
        {
            key.removeprefix("diffusion_model."): device.on_host(value)
            for key, value in kit.unet(name).model_state_dict("diffusion_model.").items()
        }
        for name in ("base", "ink")
    ]
    keys = [
        key
        for key, value in plain[0].items()
        if value.ndim == 2 and key.startswith(("input_blocks.4.", "middle_block.")) and ".ff." in key
    ]
    a, b = (quantised_kit.quantised(state, form, keys) for state in plain)
    models = [comfy.sd.load_diffusion_model_state_dict(dict(state)) for state in (a, b)]
    merged, plan = host.merge_models(*models, "IN04=0.3")
    found = {key.removeprefix("diffusion_model."): value for key, value in kit.saved(merged).items()}
    assert merged.is_dynamic() and plan.merged and found.keys() == a.keys()
    for key in keys:
        if key.startswith("middle_block."):
            assert quantised_kit.equal(quantised_kit.parts(found, key), quantised_kit.parts(a, key)), key
        else:
            exact = quantised_kit.plain(a, key) * 0.7 + quantised_kit.plain(b, key) * 0.3
            off = quantised_kit.off(found, key, exact)
            assert float((off > 1.26).double().mean()) < 1e-3 and float(off.max()) < 2.01, key


def test_models_for_hooks_and_compiling():
    """Core makes a second, not dynamic, model for hooks and for TorchCompileModel."""
    merged = host.merge_models(demo.load_model("base"), demo.load_model("ink"), "GRAD_V")[0]
    want = kit.loaded_weights(kit.load(merged))
    kit.unload()
    second = merged.get_non_dynamic_delegate()
    assert not second.is_dynamic()
    assert not kit.unequal(kit.loaded_weights(kit.load(second)), want)
    clip = demo.load_clip()
    assert not clip.clone(disable_dynamic=True).patcher.is_dynamic()


def test_stages(tmp_path):
    cascade_files.make_files(tmp_path)
    host_model.register()
    stage = sorted((tmp_path / "diffusion_models").glob("*.safetensors"))[0]

    def run():
        model = host_load.prepared_stage(str(stage))
        width = model.model.config.text_dim
        texts = [
            [[torch.randn(1, 7, width, generator=torch.Generator().manual_seed(seed)) * 0.3, {}]]
            for seed in (1, 2)
        ]
        sigmas = host_sampler.stage_sigmas(model, "3")
        sampler = host_sampler.LearnedRangeSampler()
        latent = torch.zeros(1, 3, 16, 16)
        result = host_cascade.sampled(model, *texts, 7.0, sampler, sigmas, latent, 1)
        kit.end_of_node()
        return device.on_host(result).clone()

    same(run)


@pytest.mark.parametrize("name", ["lstm_2", "transformer"])
def test_deprojectors(name):
    demo.register()

    def run():
        loaded = deprojectors.load(f"atelier_{name}.safetensors")
        embeds = torch.randn(2, loaded.module.config.dim, generator=torch.Generator().manual_seed(4))
        states = deprojectors.run(loaded, embeds, deprojectors.Shaping(rows=12, exact_end=True))
        kit.end_of_node()
        return device.on_host(states).clone()

    same(run)
