"""Thresholding under every core sampler and scheduler, and beside other patches."""

import comfy.samplers
import pytest
import torch
from blockwork.cascade import host_load
from blockwork.cascade.host_sampler import stage_sigmas
from blockwork.cascade.host_threshold import Threshold, ThresholdPatch, with_threshold
from blockwork.cascade.threshold import dynamic_threshold
from blockwork.tests.support.cascade_kit import minimal_stage, run, scheduled

IF_THRESHOLD = host_load.STAGE_ONE_THRESHOLD
SAMPLERS = comfy.samplers.SAMPLER_NAMES
SCHEDULERS = comfy.samplers.SCHEDULER_NAMES


def out_of_range(model, texts, samplers, scheduler, cfg, steps=4):
    """Samplers whose result leaves [-1.5, 1.5], with how far they went."""
    sigmas = scheduled(model, scheduler, steps)
    found = {}
    for name in samplers:
        worst = (
            run(model, texts, name, sigmas.clone(), cfg).abs().max().item()
        )  # uni_pc writes into its sigmas
        # Core ends dpm_fast at the last sigma above 0 and leaves that much noise, five deviations at most.
        left = 5 * float(sigmas[-2]) if name == "dpm_fast" else 0.0
        if not worst <= 1.5 + left:
            found[name] = worst
    return found


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_sampler_and_scheduler_stays_in_range(stage, texts, scheduler):
    model = with_threshold(stage, IF_THRESHOLD, default=True)
    names = [name for name in SAMPLERS if name != "dpm_adaptive"]
    assert not out_of_range(model, texts, names, scheduler, cfg=15.0)


def test_dpm_adaptive_stays_in_range_all_the_way(stage, texts):
    """It reads the two ends of a list alone: the run to the lowest end passes by those of all schedulers."""
    states = []
    model = with_threshold(stage, IF_THRESHOLD, default=True)
    model.set_model_sampler_post_cfg_function(
        lambda args: (
            states.append((args["input"].abs().max().item(), args["sigma"].max().item())) or args["denoised"]
        )
    )
    lists = [scheduled(model, scheduler) for scheduler in SCHEDULERS]
    for first in {float(sigmas[0]) for sigmas in lists}:
        last = min(float(sigmas[-2]) for sigmas in lists if float(sigmas[0]) == first)
        out = run(model, texts, "dpm_adaptive", torch.tensor([first, last, 0.0]), cfg=15.0)
        assert out.abs().max() <= 1.5 + 5 * last
    assert len(states) > 100 and all(worst <= 1.5 + 5 * sigma for worst, sigma in states)


def test_without_a_threshold_they_do_not(stage, texts):
    """The test above can fail: this is what the loader's default guards against."""
    names = ["euler", "ddpm", "dpmpp_2m", "dpmpp_2m_sde"]
    assert list(out_of_range(stage, texts, names, "normal", cfg=7.0)) == names


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


def mimicked(args):
    """What DynamicThresholdingFull does in core's one slot for CFG: guided values as wide as a weaker guidance's."""
    x, strong, weak, percentile = args["input"], args["cond_scale"], 3.0, 0.95
    cond, uncond = x - args["cond"], x - args["uncond"]

    def guided(scale):
        out = uncond + scale * (cond - uncond)
        mean = out.mean(dim=(2, 3), keepdim=True)
        return mean, out - mean

    (mean, wide), (_, narrow) = guided(strong), guided(weak)
    reach = narrow.abs().amax(dim=(1, 2, 3), keepdim=True)
    bound = torch.quantile(wide.abs().flatten(1), percentile, dim=1).view(-1, 1, 1, 1).maximum(reach)
    return x - (mean + wide.clamp(-bound, bound) / bound * reach)


@pytest.mark.parametrize(
    "other", ["RescaleCFG", "APG", "DynamicThresholdingFull", "post-CFG", "second threshold"]
)
def test_it_chains_with_other_patches(stage, texts, other):
    from comfy_extras.nodes_apg import APG
    from comfy_extras.nodes_model_advanced import RescaleCFG

    base = with_threshold(stage, IF_THRESHOLD, default=True)
    if other == "RescaleCFG":
        model = RescaleCFG().patch(base, 0.7)[0]
    elif other == "APG":
        model = APG.execute(base, 1.0, 5.0, 0.0).args[0]
    elif other == "DynamicThresholdingFull":
        model, alone = base.clone(), stage.clone()
        for one in (model, alone):
            one.set_model_sampler_cfg_function(mimicked)
        assert not run(alone, texts, "euler", stage_sigmas(stage, "2,2")).abs().max() <= 1.5
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
