"""Injection is exact: off is off, X everywhere is X, and no row ever sees another row's prompt."""

import pytest
import torch
from blockwork.blocks.spec import Window
from blockwork.injection import host
from blockwork.injection.conditioning import stretches
from blockwork.injection.host_change import carried_by
from blockwork.tests.support.injection_kit import (
    carry,
    cfg_guider,
    latent,
    predictions,
    prompt,
    sample,
    tiny_model,
    worst,
)

COND, UNCOND = 0, 1
WIDTH = {"sd1": 768, "sdxl": 2048}


@pytest.fixture(scope="module")
def sd1():
    return tiny_model("sd1")


@pytest.fixture(scope="module")
def sdxl():
    return tiny_model("sdxl")


def run(model, positive, negative, **options):
    """The first evaluation's predictions, ``[cond, uncond]``, and the number of U-Net passes."""
    record = predictions(model, positive, negative, **options)
    return record.predictions[0], record.passes


OFF = {
    "weight zero": {"weight": 0.0},
    "spec weight zero": {"spec": "all=0"},
    "never": {"windows": [Window(0.5, 0.5)]},
    "late": {"windows": [Window(20, 30, "step")]},
}


@pytest.mark.parametrize("how", OFF)
@pytest.mark.parametrize("batch", [1, 2])
def test_off_is_off(sd1, prompts, how, batch):
    """T1: with nothing to do, whole samplings are bit-identical to ones without the node."""
    positive, negative, other = prompts
    without = sample(cfg_guider(sd1, positive, negative), latent(batch), steps=4)
    injected = carry(sd1, positive, other, **OFF[how])
    got = sample(cfg_guider(host.prepare(sd1), injected, negative), latent(batch), steps=4)
    assert torch.equal(got, without)
    changed = carry(sd1, positive, other)
    assert not torch.equal(
        sample(cfg_guider(host.prepare(sd1), changed, negative), latent(batch), 4), without
    )


def test_the_same_prompt_everywhere_changes_nothing(sd1, prompts):
    """T2."""
    positive, negative, _ = prompts
    expected, _ = run(sd1, positive, negative)
    got, _ = run(host.prepare(sd1), carry(sd1, positive, positive), negative)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", ["replace", "lerp"])
def test_x_in_all_layers_is_running_x(request, kind, batch, mode):
    """T3, T4, T12: the conditional prediction is X's, the unconditional one is untouched, in one pass."""
    model, width = request.getfixturevalue(kind), WIDTH[kind]
    positive, negative, other = (prompt(seed, width=width) for seed in (1, 2, 3))
    base, passes = run(model, positive, negative, batch=batch)
    expected, _ = run(model, other, negative, batch=batch)
    injected = carry(model, positive, other, mode=mode, pooled=kind == "sdxl")
    got, got_passes = run(host.prepare(model), injected, negative, batch=batch)
    assert torch.equal(got[COND], expected[COND])
    assert torch.equal(got[UNCOND], base[UNCOND])
    assert worst(got[COND], base[COND]) > 0.05
    assert got_passes == passes == 1


def test_without_the_pooled_prompt_sdxl_differs(sdxl):
    """T3's other half: block injection leaves the pooled embedding alone unless asked."""
    positive, negative, other = (prompt(seed, width=2048) for seed in (1, 2, 3))
    expected, _ = run(sdxl, other, negative)
    got, _ = run(host.prepare(sdxl), carry(sdxl, positive, other), negative)
    assert worst(got[COND], expected[COND]) > 1e-3


def test_only_the_negative(sd1, prompts):
    """T4, the other way round."""
    positive, negative, other = prompts
    base, _ = run(sd1, positive, negative)
    expected, _ = run(sd1, positive, other)
    got, _ = run(host.prepare(sd1), positive, carry(sd1, negative, other))
    assert torch.equal(got[COND], base[COND])
    assert torch.equal(got[UNCOND], expected[UNCOND])


@pytest.mark.parametrize("batch", [1, 2])
def test_guidance_one_injects_in_every_image(sd1, prompts, batch):
    """T5: at CFG 1 only the conditional rows run; each of them is injected."""
    positive, negative, other = prompts
    expected, _ = run(sd1, other, negative, cfg=1.0, batch=batch)
    base, passes = run(sd1, positive, negative, cfg=1.0, batch=batch)
    injected = carry(sd1, positive, other)
    got, got_passes = run(host.prepare(sd1), injected, negative, cfg=1.0, batch=batch)
    assert torch.equal(got[COND], expected[COND])
    assert all(worst(got[COND][i], base[COND][i]) > 0.05 for i in range(batch))
    assert got_passes == passes


@pytest.mark.parametrize("batch", [1, 3])
def test_passes_split_by_memory(monkeypatch, prompts, batch):
    """T6: with too little memory, conditional and unconditional rows run on their own, and stay exact."""
    positive, negative, other = prompts
    model = tiny_model("sd1")
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
    base, passes = run(model, positive, negative, batch=batch)
    expected, _ = run(model, other, negative, batch=batch)
    got, got_passes = run(host.prepare(model), carry(model, positive, other), negative, batch=batch)
    assert torch.equal(got[COND], expected[COND])
    assert torch.equal(got[UNCOND], base[UNCOND])
    assert got_passes == passes == 2


def test_per_image_prompts(sd1):
    """T9: a batch of prompts gives each image its own, injected and base."""
    positive, negative, other = prompt(1, batch=2), prompt(2, batch=2), prompt(3, batch=2)
    base, _ = run(sd1, positive, negative, batch=2)
    expected, _ = run(sd1, other, negative, batch=2)
    got, _ = run(host.prepare(sd1), carry(sd1, positive, other), negative, batch=2)
    assert torch.equal(got[COND], expected[COND])
    assert torch.equal(got[UNCOND], base[UNCOND])
    half, _ = run(host.prepare(sd1), carry(sd1, positive, prompt(3)), negative, batch=2)
    shared, _ = run(sd1, prompt(3), negative, batch=2)
    assert torch.equal(half[COND], shared[COND])


@pytest.mark.parametrize("lengths", [(77, 154), (77, 231), (154, 77), (231, 77), (154, 231), (231, 154)])
@pytest.mark.parametrize("negative_length", [77, 154])
def test_prompts_of_different_length(sd1, lengths, negative_length):
    """T13: bit-identical where X is at least as long as the rest, to rounding where attention runs longer."""
    own, injected_length = lengths
    positive, other = prompt(1, own), prompt(3, injected_length)
    negative = prompt(2, negative_length)
    base, passes = run(sd1, positive, negative)
    expected, expected_passes = run(sd1, other, negative)
    got, got_passes = run(host.prepare(sd1), carry(sd1, positive, other), negative)
    assert worst(got[COND], expected[COND]) < 2e-6
    assert worst(got[UNCOND], base[UNCOND]) < 2e-6
    if injected_length % own == 0 and injected_length % negative_length == 0:
        assert torch.equal(got[COND], expected[COND])
    if passes == expected_passes:
        assert got_passes == passes


def test_zero_padding_would_be_rejected(sd1):
    """T13's other half: the tolerance above is far below what padding with zeros does."""
    short = prompt(3)
    padded = [[torch.cat([short[0][0], torch.zeros_like(short[0][0])], dim=1), short[0][1]]]
    expected, _ = run(sd1, short, prompt(2))
    wrong, _ = run(sd1, padded, prompt(2))
    assert (wrong[COND] - expected[COND]).abs().max() > 0.1
    assert worst(wrong[COND], expected[COND]) > 0.01


def test_keys_only_and_values_only(sd1, prompts):
    """T14: each alone does something of its own; one after the other they are X; of the same, nothing."""
    positive, negative, other = prompts
    model = host.prepare(sd1)
    base, _ = run(sd1, positive, negative)
    expected, _ = run(sd1, other, negative)
    keys, _ = run(model, carry(sd1, positive, other, part="k"), negative)
    values, _ = run(model, carry(sd1, positive, other, spec="all/v"), negative)
    both, _ = run(model, carry(sd1, carry(sd1, positive, other, part="k"), other, part="v"), negative)
    same, _ = run(model, carry(sd1, positive, positive, part="k"), negative)
    assert torch.equal(both[COND], expected[COND])
    assert torch.equal(same[COND], base[COND])
    assert worst(keys[COND], base[COND]) > 0.01
    assert worst(values[COND], base[COND]) > 0.01
    assert worst(keys[COND], values[COND]) > 0.01
    assert all(torch.equal(one[UNCOND], base[UNCOND]) for one in (keys, values, both))


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.7, -0.5])
def test_lerp_is_the_mixed_prompt(sd1, prompts, weight):
    """T15: lerp by w equals running ``(1 - w) base + w X``, also beyond the two prompts."""
    positive, negative, other = prompts
    tokens = positive[0][0] * (1 - weight) + other[0][0] * weight
    expected, _ = run(sd1, [[tokens, positive[0][1]]], negative)
    injected = carry(sd1, positive, other, mode="lerp", weight=weight)
    got, _ = run(host.prepare(sd1), injected, negative)
    assert torch.equal(got[COND], expected[COND])


def test_concat_in_all_layers_is_conditioning_concat(sd1, prompts):
    positive, negative, other = prompts
    joined = [[torch.cat([positive[0][0], other[0][0]], dim=1), positive[0][1]]]
    for other_side in (negative, prompt(2, 154)):
        expected, _ = run(sd1, joined, other_side)
        got, _ = run(host.prepare(sd1), carry(sd1, positive, other, mode="concat"), other_side)
        assert torch.equal(got[COND], expected[COND])


def test_add_moves_along_a_direction(sd1, prompts):
    positive, negative, other = prompts
    plain = prompt(4)
    moved = positive[0][0] + 0.7 * (other[0][0] - plain[0][0])
    expected, _ = run(sd1, [[moved, positive[0][1]]], negative)
    blocks = host.blocks_of(sd1)
    reference = stretches(plain, blocks)
    injected = carry(sd1, positive, other, mode="add", weight=0.7, reference=reference)
    got, _ = run(host.prepare(sd1), injected, negative)
    assert torch.equal(got[COND], expected[COND])


def test_stacking(sd1, prompts):
    """T16: disjoint injections commute, overlapping ones act in order, sixteen single ones are one of all."""
    positive, negative, other = prompts
    third, model = prompt(4), host.prepare(sd1)
    one = carry(sd1, carry(sd1, positive, other, "coarse"), third, "fine")
    two = carry(sd1, carry(sd1, positive, third, "fine"), other, "coarse")
    assert torch.equal(run(model, one, negative)[0][COND], run(model, two, negative)[0][COND])
    last = carry(sd1, carry(sd1, positive, other), third)
    assert torch.equal(run(model, last, negative)[0][COND], run(sd1, third, negative)[0][COND])
    half = carry(sd1, carry(sd1, positive, other), third, mode="lerp", weight=0.5)
    tokens = other[0][0] * 0.5 + third[0][0] * 0.5
    expected = run(sd1, [[tokens, positive[0][1]]], negative)[0][COND]
    assert torch.equal(run(model, half, negative)[0][COND], expected)
    every = positive
    for block in host.blocks_of(sd1).attending:
        model = host.prepare(model)
        every = carry(sd1, every, other, block.name)
    assert len(carried_by(every)[0]) == 16
    assert torch.equal(run(model, every, negative)[0][COND], run(sd1, other, negative)[0][COND])


def test_windows_by_percent_and_by_step(sd1, prompts):
    """T17: evaluations before the window are bit-identical to no injection, those inside are injected."""
    positive, negative, other = prompts
    steps = 6
    base = predictions(sd1, positive, negative, steps=steps)
    everywhere = predictions(host.prepare(sd1), carry(sd1, positive, other), negative, steps=steps)
    by_step = carry(sd1, positive, other, windows=[Window(2, 4, "step")])
    got = predictions(host.prepare(sd1), by_step, negative, steps=steps)
    for step in range(3):
        assert torch.equal(got.inputs[step], base.inputs[step])
        same = torch.equal(got.predictions[step][COND], base.predictions[step][COND])
        assert same == (step < 2)
    from_start = carry(sd1, positive, other, windows=[Window(0.0, 0.5)])
    got = predictions(host.prepare(sd1), from_start, negative, steps=steps)
    assert torch.equal(got.predictions[0][COND], everywhere.predictions[0][COND])
    schedule = [[other[0][0], {**other[0][1], "start_percent": 0.5}]]
    got = predictions(host.prepare(sd1), carry(sd1, positive, schedule), negative, steps=steps)
    assert torch.equal(got.predictions[0][COND], base.predictions[0][COND])
    assert not torch.equal(got.predictions[-1][COND], base.predictions[-1][COND])


def test_abutting_windows_cover_a_sampling_once(sd1, prompts):
    """T17: [0, .5] and [.5, 1] with the same X are X throughout: never both (concat shows it), never none."""
    positive, negative, other = prompts
    whole = predictions(host.prepare(sd1), carry(sd1, positive, other, mode="concat"), negative, steps=5)
    parts = carry(sd1, positive, other, "all@0-0.5, all@0.5-1", mode="concat")
    got = predictions(host.prepare(sd1), parts, negative, steps=5)
    pairs = zip(got.predictions, whole.predictions, strict=True)
    assert all(torch.equal(a[COND], b[COND]) for a, b in pairs)


def test_repeated_samplings_are_identical(sd1, prompts):
    """T25: nothing is left behind from one sampling to the next."""
    positive, negative, other = prompts
    model = host.prepare(sd1)
    injected = carry(sd1, positive, other, "coarse=0.4@0-0.6, fine/k", mode="lerp")
    images = [sample(cfg_guider(model, injected, negative), latent(2), steps=3) for _ in range(5)]
    assert all(torch.equal(image, images[0]) for image in images)


def test_no_synchronisation_in_the_blocks(sd1, prompts):
    """T25: reading a number off a tensor stalls a GPU; 16 injected layers add no such read, a window one."""
    positive, negative, other = prompts

    def reads(model, conditioning):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            sample(cfg_guider(model, conditioning, negative), latent(), steps=3)
        return sum(
            event.count for event in profile.key_averages() if event.key == "aten::_local_scalar_dense"
        )

    base = reads(sd1, positive)
    model = host.prepare(sd1)
    assert (
        reads(model, carry(sd1, positive, other)) <= base + 1
    )  # once per run: is the conditioning all zeros
    timed = reads(model, carry(sd1, positive, other, windows=[Window(0.0, 0.5)]))
    assert base < timed <= base + 1 + 3 + 4  # once per pass, and the window's noise levels once per run


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, prompts):
    """T23 on the CPU: the same equalities in fp16 and bf16; a lerp is that of the unrounded prompts."""
    positive, negative, other = prompts
    model = tiny_model("sd1", dtype=dtype)
    base, _ = run(model, positive, negative)
    expected, _ = run(model, other, negative)
    got, _ = run(host.prepare(model), carry(model, positive, other), negative)
    assert torch.equal(got[COND], expected[COND])
    assert torch.equal(got[UNCOND], base[UNCOND])
    mixed = [[positive[0][0] * 0.7 + other[0][0] * 0.3, positive[0][1]]]
    expected, _ = run(model, mixed, negative)
    got, _ = run(host.prepare(model), carry(model, positive, other, mode="lerp", weight=0.3), negative)
    assert torch.equal(got[COND], expected[COND])
