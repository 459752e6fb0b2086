"""Thresholding under every core sampler and beside other patches; mixing, inpainting, regions, img2img."""

import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from blockwork.cascade import host_load, host_model, host_sampler, keys
from blockwork.cascade.host_sampler import LearnedRangeSampler, MixGuider, stage_sigmas
from blockwork.cascade.host_threshold import Threshold, ThresholdPatch, with_threshold
from blockwork.cascade.schedule import respaced_timesteps
from blockwork.cascade.threshold import dynamic_threshold
from blockwork.cascade.unet_config import UNetConfig
from refhost import cascade_files

import nodes as core_nodes

CPU = torch.device("cpu")
IF_THRESHOLD = host_load.STAGE_ONE_THRESHOLD
SAMPLERS = comfy.samplers.SAMPLER_NAMES
SCHEDULERS = comfy.samplers.SCHEDULER_NAMES
host_model.register()


def minimal_stage(seed=0):
    """The smallest network that is a stage I: one level, attention in the middle, an untamed output head."""
    config = UNetConfig(
        in_channels=3, out_channels=6, widths=(64,), layers=(1,), attention=("none",), middle_attention="joint",
        time_dim=64, text_dim=64, context_dim=64, projects_text=True, super_resolution=False,
    )  # fmt: skip
    state_dict = cascade_files.stage_state_dict(config, seed=seed, output_scale=1.0)
    return comfy.sd.load_diffusion_model_state_dict(keys.to_original(state_dict))


@pytest.fixture(scope="module")
def stage():
    return minimal_stage()


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 4, 64, generator=generator) for _ in range(3)]


def conditioned(text, **options):
    return [[text, options]]


def run(model, texts, sampler, sigmas, cfg=7.0, latent=None, mask=None, size=8, seed=0, positive=None):
    latent = torch.zeros(1, 3, size, size) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return comfy.samplers.sample(
        model, noise, positive or conditioned(texts[0]), conditioned(texts[1]), cfg, CPU, sampler, sigmas,
        model.model_options, latent_image=latent, denoise_mask=mask, seed=seed, disable_pbar=True,
    )  # fmt: skip


def scheduled(model, scheduler, steps=4):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def out_of_range(model, texts, samplers, scheduler, cfg):
    """Samplers whose result leaves [-1.5, 1.5], with how far they went."""
    sigmas = scheduled(model, scheduler)
    found = {}
    for name in samplers:
        worst = (
            run(model, texts, name, sigmas.clone(), cfg).abs().max().item()
        )  # uni_pc writes into its sigmas
        # Core ends these two at the last sigma above 0 and leaves that much noise, five deviations at most.
        left = 5 * float(sigmas[-2]) if name in ("dpm_fast", "dpm_adaptive") else 0.0
        if not worst <= 1.5 + left:
            found[name] = worst
    return found


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_sampler_and_scheduler_stays_in_range(stage, texts, scheduler):
    assert (len(SAMPLERS), len(SCHEDULERS)) == (44, 9)
    model = with_threshold(stage, IF_THRESHOLD, default=True)
    assert not out_of_range(model, texts, SAMPLERS, scheduler, cfg=15.0)


def test_they_do_so_at_ordinary_guidance_too(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD, default=True)
    assert not out_of_range(model, texts, SAMPLERS, "normal", cfg=7.0)
    for scheduler in SCHEDULERS:
        assert not out_of_range(model, texts, ["ddpm", "euler", "dpmpp_2m_sde"], scheduler, cfg=7.0)


def test_without_a_threshold_they_do_not(stage, texts):
    """The test above can fail: this is what the loader's default guards against."""
    names = ["euler", "ddpm", "dpmpp_2m", "dpmpp_2m_sde"]
    assert list(out_of_range(stage, texts, names, "normal", cfg=7.0)) == names


# Thresholding beside other patches


def test_the_patch_is_dynamic_thresholding_of_the_guided_prediction(stage, texts):
    seen = {}
    probe = stage.clone()
    probe.set_model_sampler_post_cfg_function(lambda args: seen.setdefault("raw", args["denoised"]))
    sigmas = stage_sigmas(stage, "1,1")
    run(probe, texts, "euler", sigmas)
    model = with_threshold(probe, Threshold(percentile=0.95, cap=1.5))
    model.set_model_sampler_post_cfg_function(lambda args: seen.setdefault("out", args["denoised"]))
    seen.clear()
    run(model, texts, "euler", sigmas)
    assert torch.equal(seen["out"], dynamic_threshold(seen["raw"], 0.95, 1.5))


@pytest.mark.parametrize("other", ["RescaleCFG", "APG", "post-CFG", "second threshold"])
def test_it_chains_with_other_patches(stage, texts, other):
    from comfy_extras.nodes_apg import APG
    from comfy_extras.nodes_model_advanced import RescaleCFG

    base = with_threshold(stage, IF_THRESHOLD, default=True)
    if other == "RescaleCFG":
        model = RescaleCFG().patch(base, 0.7)[0]
    elif other == "APG":
        model = APG.execute(base, 1.0, 5.0, 0.0).args[0]
    elif other == "second threshold":
        model = with_threshold(with_threshold(stage, Threshold(percentile=0.9)), Threshold(mode="static"))
        assert len(model.model_options["sampler_post_cfg_function"]) == 2
    else:
        model = base.clone()
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.5)
    sigmas = stage_sigmas(model, "2,2")
    plain, patched = run(base, texts, "euler", sigmas), run(model, texts, "euler", sigmas)
    assert patched.isfinite().all()
    assert patched.abs().max() <= 1.5
    assert not torch.equal(plain, patched)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if "cfg_pp" in name])
def test_it_works_under_cfg_plus_plus(stage, texts, sampler):
    model = with_threshold(stage, IF_THRESHOLD)
    out = run(model, texts, sampler, stage_sigmas(model, "2,2"), cfg=1.5)
    assert out.isfinite().all()
    assert not torch.equal(out, run(stage, texts, sampler, stage_sigmas(model, "2,2"), cfg=1.5))


def test_a_clone_keeps_its_source_as_it_was(stage, texts):
    before = dict(stage.model_options)
    one = with_threshold(stage, IF_THRESHOLD, default=True)
    two = with_threshold(one, Threshold(mode="static"))
    three = with_threshold(one, Threshold(mode="none"))
    patches = [model.model_options.get("sampler_post_cfg_function", []) for model in (one, two, three)]
    assert [[type(p) for p in each] for each in patches] == [[ThresholdPatch], [ThresholdPatch], []]
    assert patches[1][0].threshold.mode == "static"  # the loader's default was replaced, not joined
    assert stage.model_options == before


def test_one_threshold_serves_two_models(stage, texts):
    other = minimal_stage(seed=1)
    sigmas = stage_sigmas(stage, "2,1")
    alone = run(with_threshold(other, IF_THRESHOLD), texts, "euler", sigmas)
    run(with_threshold(stage, IF_THRESHOLD), texts, "euler", sigmas)
    assert torch.equal(alone, run(with_threshold(other, IF_THRESHOLD), texts, "euler", sigmas))


@pytest.mark.parametrize("bound", ["pixels", "conditional"])
def test_at_cfg_one_the_zero_unconditional_is_not_read(stage, texts, bound):
    """Core skips the second branch and hands over zeros; poisoning them changes nothing."""
    model = with_threshold(stage, Threshold(percentile=0.9, bound=bound))
    poisoned = with_threshold(stage, Threshold(percentile=0.9, bound=bound))
    (patch,) = poisoned.model_options["sampler_post_cfg_function"]
    poisoned.model_options["sampler_post_cfg_function"] = [
        lambda args: patch({**args, "uncond_denoised": args["uncond_denoised"] * float("nan")})
    ]
    sigmas = stage_sigmas(model, "2,1")
    plain = run(model, texts, "euler", sigmas, cfg=1.0)
    assert torch.equal(plain, run(poisoned, texts, "euler", sigmas, cfg=1.0))
    if bound == "pixels":
        assert plain.abs().max() <= 1.5


def test_start_end_and_blend(stage, texts):
    sigmas = stage_sigmas(stage, "4,4")
    calls = []

    def counted(start, end, blend=1.0):
        calls.clear()
        model = with_threshold(stage, Threshold(start=start, end=end, blend=blend))
        (patch,) = model.model_options["sampler_post_cfg_function"]

        def spy(args):
            out = patch(args)
            calls.append(torch.equal(out, args["denoised"]))
            return out.clamp(-2, 2)

        model.model_options["sampler_post_cfg_function"] = [spy]
        run(model, texts, "euler", sigmas)
        return calls.count(False)

    assert counted(0.0, 1.0) == 8
    assert 0 < counted(0.0, 0.5) < 8
    assert counted(0.0, 0.5) + counted(0.5, 1.0) == 8
    assert counted(0.0, 1.0, blend=0.0) == 0


# Two positive prompts


def mixed(model, texts, mix, sampler="euler"):
    guider = MixGuider(model, mix)
    guider.set_prompts(conditioned(texts[0]), conditioned(texts[2]), conditioned(texts[1]))
    guider.set_cfg(4.0)
    latent = torch.zeros(1, 3, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 0)
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return guider.sample(noise, latent, sampler, stage_sigmas(model, "3,3"), seed=0, disable_pbar=True)


def test_the_mixers_ends_are_plain_guidance(stage, texts):
    """By each prompt alone; all at one batch size, for a batch of three rounds differently from one of two."""
    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "3,3")
    by_content = run(model, texts, "euler", sigmas, cfg=4.0)
    by_style = run(model, [texts[2], texts[1]], "euler", sigmas, cfg=4.0)
    assert torch.equal(mixed(model, texts, 0.0), by_content)
    torch.testing.assert_close(mixed(model, texts, 1.0), by_style, rtol=0, atol=1e-4)
    between = mixed(model, texts, 0.25)
    assert not torch.equal(between, by_content)
    assert not torch.equal(between, by_style)


def test_the_mixer_works_with_the_learned_variance(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD)
    plain = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "3,3"), cfg=4.0)
    assert torch.equal(mixed(model, texts, 0.0, LearnedRangeSampler()), plain)
    assert mixed(model, texts, 0.5, LearnedRangeSampler()).isfinite().all()


# Starting pictures, masks and regions


def picture(size=8):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("known", host_sampler.KNOWN_REGIONS)
def test_the_known_region_is_exact_at_the_end(stage, texts, known):
    model = with_threshold(stage, IF_THRESHOLD)
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6] = 1
    image = picture()
    out = run(model, texts, LearnedRangeSampler(known), stage_sigmas(model, "3,3"), latent=image, mask=mask)
    assert torch.equal(out[:, :, :2], image[:, :, :2])
    assert torch.equal(out[:, :, 6:], image[:, :, 6:])
    assert not torch.equal(out[:, :, 2:6], image[:, :, 2:6])


def test_inpainting_through_cores_ksampler(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD)
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6] = 1
    latent = {"samples": picture(), "noise_mask": mask}
    (out,) = core_nodes.KSampler().sample(
        model, 0, 4, 5.0, "ddpm", "normal", conditioned(texts[0]), conditioned(texts[1]), latent, denoise=0.8
    )
    torch.testing.assert_close(out["samples"][:, :, :2], picture()[:, :, :2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("denoise", [0.3, 0.7])
def test_image_to_image_stays_closer_the_less_it_denoises(stage, texts, denoise):
    model = with_threshold(stage, IF_THRESHOLD)
    image = picture()
    out = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "20", denoise), cfg=1.0, latent=image)
    full = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "20", 0.95), cfg=1.0, latent=image)
    assert (out - image).abs().mean() < (full - image).abs().mean()


def test_no_denoising_returns_the_picture(stage, texts):
    assert stage_sigmas(stage, "20", 0.0).numel() == 0
    image = picture()
    assert torch.equal(
        run(stage, texts, LearnedRangeSampler(), stage_sigmas(stage, "20", 0.0), latent=image), image
    )


def test_a_run_in_two_halves_is_the_whole_run(stage, texts):
    """SplitSigmas: the first half hands over a noisy latent, the second adds no noise of its own."""
    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "6")
    draws = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]

    def sampler(start):
        rest = iter(draws[start:])
        return LearnedRangeSampler(noise_sampler=lambda _: next(rest))

    whole = run(model, texts, sampler(0), sigmas)
    half = run(model, texts, sampler(0), sigmas[:4])
    finished = comfy.samplers.sample(
        model, torch.zeros_like(half), conditioned(texts[0]), conditioned(texts[1]), 7.0, CPU, sampler(3),
        sigmas[3:], model.model_options, latent_image=half, seed=0, disable_pbar=True,
    )  # fmt: skip
    torch.testing.assert_close(finished, whole, rtol=0, atol=1e-4)


def test_regional_prompts_with_the_learned_variance(stage, texts):
    """Two halves under two prompts: where only one prompt rules, variance and picture are its own."""
    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "1")
    left, right = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    left[..., :4], right[..., 4:] = 1, 1
    halves = [[texts[0], {"mask": left}], [texts[2], {"mask": right}]]
    records = {}

    def recorded(name, positive):
        class Recorded(host_sampler.VarianceRecord):
            def __setattr__(self, key, value):
                if key == "v" and value is not None:
                    records[name] = value
                super().__setattr__(key, value)

        original, host_sampler.VarianceRecord = host_sampler.VarianceRecord, Recorded
        try:
            run(model, texts, LearnedRangeSampler(), sigmas, positive=positive)
        finally:
            host_sampler.VarianceRecord = original

    recorded("both", halves)
    recorded("first", conditioned(texts[0]))
    recorded("second", conditioned(texts[2]))
    torch.testing.assert_close(records["both"][..., :4], records["first"][..., :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(records["both"][..., 4:], records["second"][..., 4:], rtol=0, atol=1e-5)
    assert not torch.equal(records["first"], records["second"])


def test_an_area_and_a_weighted_prompt(stage, texts):
    model = with_threshold(stage, IF_THRESHOLD)
    positive = [[texts[0], {"strength": 0.7}], [texts[2], {"area": (4, 4, 2, 2), "strength": 1.3}]]
    out = run(model, texts, LearnedRangeSampler(), stage_sigmas(model, "3,1"), positive=positive)
    assert out.isfinite().all()
    assert out.abs().max() <= 1.5


def test_the_variance_is_the_positive_prompts_wherever_it_stands(stage, texts):
    """Core's dual-CFG guider lists the negative prompt first."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    model = with_threshold(stage, IF_THRESHOLD)
    guider = Guider_DualCFG(model)
    guider.set_conds(conditioned(texts[0]), conditioned(texts[2]), conditioned(texts[1]))
    guider.set_cfg(3.0, 2.0)
    record = host_sampler.VarianceRecord(guider)
    guider.conds = {"positive": ["p"], "middle": ["m"], "negative": ["n"]}
    conds = [guider.conds[key] for key in ("negative", "middle", "positive")]
    outs = record(
        lambda *_: [torch.full((1, 6, 2, 2), float(i)) for i in range(3)],
        None,
        conds,
        torch.zeros(1, 3, 2, 2),
        None,
        {},
    )
    assert record.v.unique().tolist() == [2.0]
    assert [out.shape[1] for out in outs] == [3, 3, 3]


def test_other_models_are_told_to_use_another_sampler(texts):
    class Other:
        conds: dict = {}
        inner_model = object()

    with pytest.raises(ValueError, match="core's samplers"):
        LearnedRangeSampler().sample(Other(), torch.tensor([1.0, 0.0]), {}, None, torch.zeros(1, 3, 8, 8))


def test_style_prompt_changes_the_pooled_path_alone(stage, texts):
    from blockwork.cascade.host_text import with_pooled_text

    model = with_threshold(stage, IF_THRESHOLD)
    sigmas = stage_sigmas(model, "2,1")
    content, style = conditioned(texts[0], mark=1), conditioned(texts[2])
    styled = with_pooled_text(content, style)
    assert content == conditioned(texts[0], mark=1)
    same = run(model, texts, "euler", sigmas, positive=with_pooled_text(content, content))
    plain = run(model, texts, "euler", sigmas)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-4)
    assert not torch.equal(run(model, texts, "euler", sigmas, positive=styled), plain)


def test_named_lists_become_sigmas(stage):
    table = stage.get_model_object("model_sampling").sigmas
    sigmas = stage_sigmas(stage, "smart50")
    assert sigmas[-1] == 0
    assert torch.equal(sigmas[:-1], table[respaced_timesteps("smart50")])
