"""Patches and ControlNets of other nodes on a stage: what runs, and what is refused because an IF stage does not read it."""

import comfy.samplers
import pytest
import torch
from blockwork.cascade import host_load
from blockwork.cascade.host_sampler import LearnedRangeSampler, stage_sigmas
from blockwork.cascade.host_threshold import with_threshold
from blockwork.tests.support.cascade_kit import conditioned, mixed, run

IF_THRESHOLD = host_load.STAGE_ONE_THRESHOLD


def separately(args):
    """A calc_cond_batch function as a patch may bring one: each prompt in a call of its own."""
    one_by_one = [
        comfy.samplers.calc_cond_batch(
            args["model"], [cond], args["input"], args["sigma"], args["model_options"]
        )
        for cond in args["conds"]
    ]
    return [outs[0] for outs in one_by_one]


def test_the_mixer_runs_patches_before_and_after_guidance(stage, texts):
    calls = []
    model = with_threshold(stage, IF_THRESHOLD)
    model.set_model_sampler_pre_cfg_function(
        lambda args: calls.append(("before", len(args["conds_out"]))) or args["conds_out"]
    )
    model.set_model_sampler_post_cfg_function(lambda args: calls.append(("after", 1)) or args["denoised"])
    mixed(model, texts, 0.25)
    assert calls == [("before", 2), ("after", 1)] * 6
    halved = with_threshold(stage, IF_THRESHOLD)
    halved.set_model_sampler_pre_cfg_function(lambda args: [out * 0.5 for out in args["conds_out"]])
    assert not torch.equal(mixed(halved, texts, 0.25), mixed(model, texts, 0.25))


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_the_mixer_keeps_a_calc_cond_batch_function(stage, texts, mix):
    plain = with_threshold(stage, IF_THRESHOLD)
    patched = plain.clone()
    calls = []
    patched.set_model_sampler_calc_cond_batch_function(lambda args: calls.append(1) or separately(args))
    expected, found = mixed(plain, texts, mix), mixed(patched, texts, mix)
    assert len(calls) == 6 * (1 if mix == 0 else 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_learned_variance_passes_through_a_calc_cond_batch_function(stage, texts):
    plain = with_threshold(stage, IF_THRESHOLD)
    patched = plain.clone()
    patched.set_model_sampler_calc_cond_batch_function(separately)
    sigmas = stage_sigmas(stage, "3,3")
    expected, found = (run(model, texts, LearnedRangeSampler(), sigmas) for model in (plain, patched))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_predictions_made_elsewhere_are_refused(stage, texts):
    """A cache, say, that answers without the model: the variance is not to be had."""
    patched = stage.clone()
    patched.set_model_sampler_calc_cond_batch_function(lambda args: [args["input"] * 0] * 2)
    with pytest.raises(ValueError, match=r"variance .* cannot be read.*ddpm"):
        run(patched, texts, LearnedRangeSampler(), stage_sigmas(stage, "2"))


# What an IF stage does not read


@pytest.mark.parametrize("kind", ["attn1_patch", "attn2_patch", "output_block_patch", "attn1_replace"])
def test_patches_of_the_unets_inside_are_refused(stage, texts, kind):
    patched = stage.clone()
    if kind == "attn1_replace":
        patched.set_model_attn1_replace(lambda q, k, v, extra: q, "middle", 0)
    else:
        patched.set_model_patch(lambda *args: args[0], kind)
    named = kind.split("_")[0] if kind == "attn1_replace" else kind
    with pytest.raises(ValueError, match=rf"patches that an IF stage does not read: {named}\b"):
        run(patched, texts, "euler", stage_sigmas(stage, "2"))


def test_freeu_is_refused_by_name(stage, texts):
    from comfy_extras.nodes_freelunch import FreeU_V2

    model = with_threshold(stage, IF_THRESHOLD)
    model.model.model_config.unet_config["model_channels"] = 64  # FreeU reads it
    patched = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args[0]
    del model.model.model_config.unet_config["model_channels"]
    with pytest.raises(ValueError, match="output_block_patch"):
        run(patched, texts, "euler", stage_sigmas(stage, "2"))


def test_a_controlnet_is_refused(stage, texts):
    import comfy.controlnet

    positive = conditioned(texts[0], control=comfy.controlnet.ControlBase())
    with pytest.raises(ValueError, match="ControlNet"):
        run(stage, texts, "euler", stage_sigmas(stage, "2"), positive=positive)


def test_other_models_are_told_to_use_another_sampler(texts):
    class Other:
        conds: dict = {}
        inner_model = object()

    with pytest.raises(ValueError, match="core's samplers"):
        LearnedRangeSampler().sample(Other(), torch.tensor([1.0, 0.0]), {}, None, torch.zeros(1, 3, 8, 8))
