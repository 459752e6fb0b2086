"""Waits for the GPU in sampling loops: none of the pack's own, whatever is sampled."""

import comfy.samplers
import device
import kit
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
from blockwork.tests.support import cascade_files


def each(run, few: int = 1, many: int = 3) -> dict[str, float]:
    """The waits of every further step, by place: ``run(steps)`` with few and with many."""
    run(few)  # loads and remembers what later runs reuse
    counts = []
    for steps in (few, many):
        with kit.waits() as found:
            run(steps)
        counts.append(found)
    more = {place: count - counts[0].get(place, 0) for place, count in counts[1].items()}
    return {place: count / (many - few) for place, count in more.items() if count}


def test_unets():
    """Injection, thresholding and merges, beside core's own loop."""
    base = kit.unet("base")
    model = injection.prepare(base)
    positive, negative = kit.prompts(model)
    blocks = injection.blocks_of(model)
    other = stretches(kit.prompts(model, 9)[0], blocks)

    def waits(model, conditioning=positive):
        return sum(each(lambda steps: kit.sample(model, steps, conditioning, negative)).values())

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


def test_stages(tmp_path):
    cascade_files.make_files(tmp_path)
    host_model.register()
    for number, file in cascade_files.STAGE_FILES.items():
        stage = host_load.prepared_stage(str(tmp_path / "diffusion_models" / file))
        generator = torch.Generator().manual_seed(1)
        texts = [
            [[torch.randn(1, 7, stage.model.config.text_dim, generator=generator) * 0.3, {}]] for _ in range(3)
        ]
        if number != "I":
            low = host_model.LowRes(torch.zeros(1, 3, 8, 8), 0.25, fresh_noise=True, blur=0.6)
            texts = [host_cascade.with_low_res(text, low) for text in texts]
        guider = host_sampler.MixGuider(stage, 0.5)
        guider.set_prompts(*texts)
        guider.set_cfg(7.0)

        def run(steps, stage=stage, guider=guider):
            sigmas = host_sampler.stage_sigmas(stage, str(steps))
            latent = torch.zeros(1, 3, 16, 16)
            guider.sample(
                latent, latent, host_sampler.LearnedRangeSampler(), sigmas, disable_pbar=True, seed=3
            )
            kit.end_of_node()

        assert each(run, 2, 4) == {}, number


def test_deprojectors():
    """Rows are made one after the other, and none waits."""
    demo.register()
    for name in ("lstm_2", "transformer"):
        loaded = deprojectors.load(f"atelier_{name}.safetensors")
        embeds = torch.randn(2, loaded.module.config.dim, generator=torch.Generator().manual_seed(4))

        def run(rows, loaded=loaded, embeds=embeds):
            deprojectors.run(loaded, embeds, deprojectors.Shaping(rows=rows, exact_end=True))

        assert each(run, 3, 12) == {}, name
