"""Merging text encoders and VAEs, and the dtypes of all of them."""

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.taesd.taesd
import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.live import host, host_patch
from blockwork.merge.methods import METHODS, each, weighted_sum
from blockwork.tests.support.loading import loaded_weight
from comfy.model_patcher import ModelPatcher

CPU = torch.device("cpu")
TINY_CLIP = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def build_clip(seed, text_projection=None):
    """A tiny SD1 text encoder of core's own class; its text_projection is uninitialised unless given."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": TINY_CLIP})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in clip.cond_stage_model.named_parameters():
            if name.endswith("logit_scale"):
                parameter.fill_(seed)
            elif name.endswith("text_projection.weight"):
                parameter.copy_(
                    torch.full_like(parameter, float("nan")) if text_projection is None else text_projection
                )
            else:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return clip


def build_vae(seed):
    """A tiny autoencoder that core's VAE class recognises."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        k: 0.05 * torch.randn(v.shape, generator=generator)
        for k, v in comfy.taesd.taesd.TAESD().state_dict().items()
    }
    return comfy.sd.VAE(sd={k: v for k, v in state.items() if not k.startswith("vae_")})


def test_clip_weights_merge_and_the_rest_stays_as_in_a():
    a, b = build_clip(1), build_clip(2)
    merged, plan = host.merge_clips(a, b, 0.25)
    for key, x in a.patcher.model_state_dict().items():
        y = b.patcher.model_state_dict()[key]
        now = loaded_weight(merged.patcher, key)
        if not key.endswith("text_projection.weight"):
            assert torch.equal(now, (x.float() * 0.75 + y.float() * 0.25).to(x.dtype)), key
    report = plan.report()
    assert "clip_l.logit_scale" in plan.merged  # as in a file, where every number of a text encoder is merged
    assert "kept from A, not loaded from the file: 1 (clip_l.transformer.text_projection.weight)" in report
    assert not a.patcher.patches


def test_a_text_projection_that_was_loaded_is_merged():
    eye = torch.eye(64)
    merged, _ = host.merge_clips(build_clip(1, eye), build_clip(2, 3 * eye), 0.5)
    key = next(k for k in merged.patcher.model_state_dict() if k.endswith("text_projection.weight"))
    assert torch.equal(loaded_weight(merged.patcher, key).float(), 2 * eye)


def test_merged_clip_encodes_between_its_parents():
    a, b = build_clip(1), build_clip(2)
    tokens = a.tokenize("a red square")
    same, _ = host.merge_clips(a, b, 0.0)
    other, _ = host.merge_clips(a, b, 1.0)
    mixed, _ = host.merge_clips(a, b, 0.5)
    states = [clip.encode_from_tokens(tokens) for clip in (a, same, b, other, mixed)]
    assert torch.equal(states[0], states[1]) and torch.equal(states[2], states[3])
    assert not torch.equal(states[4], states[0]) and not torch.equal(states[4], states[2])


def test_clip_add_difference():
    a, b, c = build_clip(1), build_clip(2), build_clip(3)
    same, _ = host.merge_clips(a, b, 1.0, b)
    moved, plan = host.merge_clips(a, b, 1.0, c)
    key = "clip_l.transformer.text_model.final_layer_norm.weight"
    assert torch.equal(loaded_weight(same.patcher, key), a.patcher.model_state_dict()[key])
    assert not torch.equal(loaded_weight(moved.patcher, key), a.patcher.model_state_dict()[key])
    assert "A + 1 (B - C)" in plan.report()


def test_text_encoders_of_different_kinds_are_refused():
    class Other:
        patcher = ModelPatcher(torch.nn.ModuleDict({"t5xxl": torch.nn.Linear(2, 2)}), CPU, CPU)

    with pytest.raises(MergeError, match="A and B have no tensors in common"):
        host.merge_clips(build_clip(1), Other(), 0.5)


def test_vae_merge_leaves_its_parents_alone():
    a, b = build_vae(1), build_vae(2)
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    before = a.decode(latent)
    merged, plan = host.merge_vaes(a, b, 0.5)
    ends = [host.merge_vaes(a, b, ratio)[0].decode(latent) for ratio in (0.0, 1.0)]
    middle = merged.decode(latent)
    assert torch.equal(ends[0], before) and torch.equal(ends[1], b.decode(latent))
    assert not torch.equal(middle, before)
    assert torch.equal(a.decode(latent), before)
    assert "0.5 A + 0.5 B" in plan.report()


def test_a_saved_vae_is_the_merge_and_its_parents_stay(tmp_path):
    """CheckpointSave and VAESave read ``get_sd``, before or after a decode."""
    a, b = build_vae(1), build_vae(2)
    before = {key: value.clone() for key, value in a.get_sd().items()}
    merged, _ = host.merge_vaes(a, b, 0.5)
    for _ in range(2):
        for key, value in merged.get_sd().items():
            assert torch.equal(value, before[key] * 0.5 + b.get_sd()[key] * 0.5), key
            assert torch.equal(a.get_sd()[key], before[key]), key
        merged.decode(torch.zeros(1, 4, 4, 4))


def test_ratios_must_be_finite():
    with pytest.raises(MergeError, match="finite"):
        host.merge_clips(build_clip(1), build_clip(2), float("nan"))


FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("of_a", [*FLOATS, torch.float8_e4m3fn])
@pytest.mark.parametrize("of_b", [*FLOATS, torch.float8_e4m3fn])
def test_every_pair_of_dtypes_rounds_once(of_a, of_b):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 50, generator=generator).to(dtype) for dtype in (of_a, of_b))
    for m in (0.25, 0.5, 0.75, 0.3, -0.7):
        exact = a.double() * (1 - m) + b.double() * m
        got = each(a, b, 1 - m, m)
        assert got.dtype == of_a
        if of_a == torch.float32:  # two products and a sum, each rounded in the arithmetic's own type
            assert torch.allclose(got.double(), exact, rtol=0, atol=2e-7 * exact.abs().max().item())
        else:
            assert (got.float() != exact.to(of_a).float()).float().mean() <= 0.02, m


def test_weighted_sum_and_each_agree_to_the_last_digit():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1000, generator=generator) for _ in range(2))
    for m in (0.1, 0.5, 11 / 12):
        ulp = torch.finfo(torch.float32).eps * torch.maximum(a.abs(), b.abs())
        assert ((weighted_sum(a, b, m) - each(a, b, 1 - m, m)).abs() <= ulp).all()


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float8_e4m3fn])
def test_in_place_arithmetic_has_the_bits_of_the_methods(dtype):
    generator = torch.Generator().manual_seed(0)
    size = (host_patch.CHUNK + 7, 2)
    a, b, c = torch.randn(3, *size, generator=generator)
    b, c = b.to(dtype), c.to(dtype)
    for name, others, ratios in (
        ("each", (b,), {"m_a": 0.7, "m_b": 0.3}),
        ("add_difference", (b, c), {"alpha": 0.3}),
        ("scale", (), {"alpha": 0.3}),
    ):
        how = host_patch.How(name, host_patch.numbers(ratios))
        found = host_patch._merged(a.clone(), others, how)
        assert torch.equal(found, METHODS[name].function(a, *(other.float() for other in others), **ratios))


def test_stored_float8_is_merged_once_and_rounded_by_core(build):
    a, b = build("SD15", 1), build("SD15", 2)
    key = "diffusion_model.middle_block.1.proj_in.weight"
    x, y = a.model_state_dict()[key].clone(), b.model_state_dict()[key].clone()
    layer = a.model.diffusion_model.middle_block[1].proj_in
    layer.weight = torch.nn.Parameter(x.to(torch.float8_e4m3fn), requires_grad=False)
    merged, _ = host.merge_models(a, b, "0.5")
    got = loaded_weight(merged, key)
    assert got.dtype == torch.float8_e4m3fn
    exact = (x.to(torch.float8_e4m3fn).float() + y) / 2
    spacing = exact.abs().clamp(min=2**-6) * 2**-3  # e4m3 has three mantissa bits
    assert ((got.float() - exact).abs() <= spacing).all()
