"""Waits for the GPU in sampling loops: none of the pack's own, whatever is sampled."""

import comfy.model_patcher
import device
import kit
import pytest
import torch
from blockwork.blocks.spec import parse
from blockwork.cascade import host_cascade, host_load, host_model, host_sampler
from blockwork.cascade.host_threshold import Threshold, with_threshold
from blockwork.demo_models import host as demo
from blockwork.deprojector.host import models as deprojectors
from blockwork.injection import host as injection
from blockwork.injection.conditioning import stretches
from blockwork.injection.entries import injection as entry
from blockwork.injection.host_change import Change
from blockwork.merge.live import host
from blockwork.tests.support import cascade_files, injection_kit, transformer_kit

# The others are variants of these.
TRANSFORMERS = (
    "anima", "cosmos", "wan", "kandinsky", "stable_audio", "ltxv", "hunyuan", "pixart", "cosmos1", "cascade",
)  # fmt: skip


def test_unets():
    """Injection, thresholding and merges, beside core's own loop."""
    base = kit.unet("base")
    model = injection.prepare(base)
    positive, negative = kit.prompts(model)
    blocks = injection.blocks_of(model)
    other = stretches(kit.prompts(model, 9)[0], blocks)

    def waits(model, conditioning=positive):
        def run(steps, callback):
            kit.sample(model, steps, conditioning, negative, callback=callback)

        return sum(kit.waits_per_step(run).values())

    def carrying(spec, **options):
        return Change((entry(parse(spec, blocks), other, **options),)).on(positive)

    core = waits(base)
    assert waits(model, carrying("all")) == core
    assert waits(with_threshold(base, Threshold(start=0.2, end=0.8))) == core
    # A window is compared with the noise level, which lies on the device: once per step, as core's own timed prompts.
    timed = [[text, options | {"start_percent": 0.2, "end_percent": 0.7}] for text, options in positive]
    windows = carrying("IN04@0.2-0.7=0.5, M00@0.1-0.9, OUT05/k", mode="lerp")
    assert waits(model, windows) == core + 1 <= waits(base, [*positive, *timed])
    # A method that measures whole tensors waits for its numbers when it merges, and never again.
    merged = host.merge_unets("", [base, kit.unet("ink")], "slerp", {"alpha": "IN04=0.3"})[0]
    assert waits(merged) == core


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_injection_into_transformers(kind):
    with kit.plain_loading():
        found = transformer_kit.MODELS[kind]()
        model = comfy.model_patcher.ModelPatcher(found.model, device.GPU, torch.device("cpu"))
        own, negative, other = (transformer_kit.prompt(kind, seed) for seed in (1, 2, 3))

        def waits(model, positive):
            guider = injection_kit.cfg_guider(model, positive, negative)

            def run(steps, callback):
                injection_kit.sample(guider, transformer_kit.noise(kind), steps, callback=callback)

            return kit.waits_per_step(run)

        core = waits(model, own)
        injected = waits(injection.prepare(model), injection_kit.carry(model, own, other))
        assert {place: count for place, count in injected.items() if count > core.get(place, 0)} == {}


@pytest.mark.parametrize("number", cascade_files.STAGE_FILES)
def test_stages(number, tmp_path):
    cascade_files.make_files(tmp_path)
    host_model.register()
    stage = host_load.prepared_stage(str(tmp_path / "diffusion_models" / cascade_files.STAGE_FILES[number]))
    generator = torch.Generator().manual_seed(1)
    width = stage.model.config.text_dim
    texts = [[[torch.randn(1, 7, width, generator=generator) * 0.3, {}]] for _ in range(3)]
    if number != "I":
        low = host_model.LowRes(torch.zeros(1, 3, 8, 8), 0.25, fresh_noise=True, blur=0.6)
        texts = [host_cascade.with_low_res(text, low) for text in texts]
    guider = host_sampler.MixGuider(stage, 0.5)
    guider.set_prompts(*texts)
    guider.set_cfg(7.0)

    def run(steps, callback):
        sigmas, latent = host_sampler.stage_sigmas(stage, str(steps)), torch.zeros(1, 3, 16, 16)
        sampler = host_sampler.LearnedRangeSampler()
        guider.sample(latent, latent, sampler, sigmas, callback=callback, disable_pbar=True, seed=3)
        kit.end_of_node()

    assert kit.waits_per_step(run) == {}


@pytest.mark.parametrize("name", ["lstm_2", "transformer"])
def test_deprojectors(name):
    """Rows are made one after the other, and none waits."""
    demo.register()
    loaded = deprojectors.load(f"atelier_{name}.safetensors")
    embeds = torch.randn(2, loaded.module.config.dim, generator=torch.Generator().manual_seed(4))
    deprojectors.run(loaded, embeds, deprojectors.Shaping(rows=2))  # loads it
    device.WAITS.clear()
    deprojectors.run(loaded, embeds, deprojectors.Shaping(rows=12, exact_end=True))
    assert sum(device.WAITS.values()) <= 2  # the embeddings there, the states back
