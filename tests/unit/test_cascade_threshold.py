"""Thresholding: hand-worked vectors, diffusers' scheduler, batch invariance, dtypes, sizes and bad input."""

import math

import pytest
import torch
from blockwork.cascade import threshold
from blockwork.cascade.threshold import (
    dynamic_threshold,
    matched_threshold,
    quantile,
    saturation,
    static_threshold,
)
from diffusers import DDPMScheduler

VECTOR = torch.tensor([[0.0, 0.5, -1.0, 2.0, -4.0]])
WORKED = [
    (0.5, None, [0, 0.5, -1, 1, -1]),
    (0.75, None, [0, 0.25, -0.5, 1, -1]),
    (1.0, None, [0, 0.125, -0.25, 0.5, -1]),
    (0.95, 1.5, [0, 1 / 3, -2 / 3, 1, -1]),
    (0.95, 1.0, [0, 0.5, -1, 1, -1]),
    (0.95, None, [0, 0.5 / 3.6, -1 / 3.6, 2 / 3.6, -1]),
]


@pytest.mark.parametrize(("percentile", "cap", "expected"), WORKED)
def test_worked_by_hand(percentile, cap, expected):
    out = dynamic_threshold(VECTOR, percentile, cap)
    torch.testing.assert_close(out[0], torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-7)


@pytest.mark.parametrize("percentile", [0.0, 0.5, 0.95, 0.995, 1.0])
def test_matches_diffusers_on_random_tensors(percentile):
    rng = torch.Generator().manual_seed(int(percentile * 1000))
    for trial in range(40):
        shape = [1 + trial % 4, 3, 5 + trial, 40 - trial]
        x = torch.randn(shape, generator=rng) * (0.2 + trial / 8)
        cap = 1.5 + trial % 3
        scheduler = DDPMScheduler(
            thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=cap
        )
        torch.testing.assert_close(
            dynamic_threshold(x, percentile, cap), scheduler._threshold_sample(x), rtol=0, atol=1e-6
        )


def test_a_sample_never_sees_its_batch():
    x = torch.randn(4, 3, 16, 24) * 3
    whole = dynamic_threshold(x, 0.95)
    for index in range(4):
        assert torch.equal(whole[index : index + 1], dynamic_threshold(x[index : index + 1], 0.95))
    louder = torch.cat([x[:1], x[1:] * 50])
    assert torch.equal(dynamic_threshold(louder, 0.95)[0], whole[0])
    assert torch.equal(matched_threshold(louder, louder / 2, 0.9)[0], matched_threshold(x, x / 2, 0.9)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_the_float32_answer(dtype):
    x = (torch.randn(2, 3, 8, 8) * 3).to(dtype)
    out = dynamic_threshold(x, 0.9)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), dynamic_threshold(x.double(), 0.9), rtol=0.01, atol=1e-6)


def test_more_elements_than_torch_quantile_takes():
    x = torch.randn(1, 1, 1 << 12, (1 << 12) + 1)
    assert x.numel() > 1 << 24
    with pytest.raises(RuntimeError):
        torch.quantile(x.flatten(1), 0.99, dim=1)
    rank = 0.99 * (x.numel() - 1)
    low, high = x.abs().flatten().sort().values[math.floor(rank) : math.floor(rank) + 2]
    expected = torch.lerp(low, high, rank - math.floor(rank))
    assert dynamic_threshold(x, 0.99).abs().max() == 1.0
    assert quantile(x.abs().flatten(1), 0.99).item() == pytest.approx(expected.item(), abs=1e-6)


def test_video_latents_and_vectors_work_too():
    assert dynamic_threshold(torch.randn(2, 16, 5, 9, 7) * 4).abs().max() <= 1
    assert matched_threshold(torch.randn(2, 16, 5, 9, 7), torch.randn(2, 16, 5, 9, 7)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_constant_input_gives_no_nan(value):
    x = torch.full((2, 3, 4, 4), value)
    assert torch.equal(dynamic_threshold(x), static_threshold(x))
    assert torch.equal(matched_threshold(x, x), x)
    assert torch.equal(matched_threshold(x, x, per_channel=True, static=True), x)


def test_nan_in_one_sample_stays_there():
    x = torch.randn(2, 3, 8, 8) * 3
    clean = dynamic_threshold(x)
    x[0] = math.nan
    out = dynamic_threshold(x)
    assert out[0].isnan().all()
    assert torch.equal(out[1], clean[1])


def test_infinite_values_are_clipped():
    x = torch.randn(1, 3, 8, 8)
    x[0, 0] = math.inf
    out = dynamic_threshold(x)
    assert out.isfinite().all()
    assert out.abs().max() == 1


@pytest.mark.parametrize(
    ("percentile", "cap"), [(-0.1, None), (1.1, None), (math.nan, None), (0.9, 0.99), (0.9, math.nan)]
)
def test_bad_settings_are_refused(percentile, cap):
    with pytest.raises(ValueError):
        dynamic_threshold(VECTOR, percentile, cap)
    with pytest.raises(ValueError):
        matched_threshold(torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), percentile, cap)


def test_cap_one_is_static_and_takes_no_percentile(monkeypatch):
    x = torch.randn(2, 3, 8, 8) * 3
    monkeypatch.setattr(threshold, "quantile", lambda *_: pytest.fail("a percentile was computed"))
    assert torch.equal(dynamic_threshold(x, 0.95, cap=1.0), static_threshold(x))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1001])
@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.95, 0.999, 1.0])
def test_both_ways_to_the_order_statistics_are_torch_quantile(count, q):
    x = torch.randn(3, count)
    x[1] = x[1].round()  # ties
    expected = torch.quantile(x, q, dim=1)
    rank = q * (count - 1)
    low, high = threshold._neighbours_by_topk(x, math.floor(rank))
    torch.testing.assert_close(torch.lerp(low, high, rank % 1), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(quantile(x, q), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("percentile", "cap"), [(0.95, None), (0.995, None), (0.9, 1.5), (0.95, 1.0)])
def test_matched_is_imagen_for_a_zero_mean_picture_with_unit_reach(percentile, cap):
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64) * 3
    x -= x.mean(dim=(2, 3), keepdim=True)
    conditional = torch.ones_like(x)
    conditional[..., ::2] = -1.0  # mean 0 and every magnitude 1: r is exactly Imagen's bound
    out = matched_threshold(x, conditional, percentile, cap)
    torch.testing.assert_close(out, dynamic_threshold(x, percentile, cap), rtol=0, atol=1e-12)
    static = matched_threshold(x, conditional, percentile, static=True)
    torch.testing.assert_close(static, static_threshold(x), rtol=0, atol=1e-12)


def test_matched_leaves_an_unguided_prediction_almost_alone():
    x = torch.randn(1, 4, 32, 32) + torch.tensor([3.0, -1.0, 0.0, 0.5]).view(1, 4, 1, 1)
    changed = matched_threshold(x, x, 0.995) != x
    torch.testing.assert_close(matched_threshold(x, x, 1.0), x)
    assert changed.float().mean() < 0.5


def test_matched_brings_a_guided_prediction_back_and_keeps_its_mean():
    conditional = torch.randn(1, 4, 32, 32)
    guided = 6 * conditional + 2.0
    out = matched_threshold(guided, conditional, 0.99)
    reach = quantile((out - 2.0 - 6 * conditional.mean((2, 3), keepdim=True)).abs().flatten(1), 0.99)
    assert reach.item() == pytest.approx(
        quantile((conditional - conditional.mean((2, 3), keepdim=True)).abs().flatten(1), 0.99).item(),
        rel=1e-3,
    )


def test_per_channel_treats_each_channel_alone():
    conditional = torch.randn(2, 4, 16, 16)
    guided = conditional * torch.tensor([2.0, 9.0, 4.0, 1.0]).view(1, 4, 1, 1)
    whole = matched_threshold(guided, conditional, 0.95, per_channel=True)
    for channel in range(4):
        one = slice(channel, channel + 1)
        alone = matched_threshold(guided[:, one], conditional[:, one], 0.95, per_channel=True)
        torch.testing.assert_close(whole[:, one], alone)


def test_saturation_counts_per_sample():
    x = torch.tensor([[0.0, 2.0, -1.0, 0.5], [0.1, 0.2, 0.3, 0.4]])
    assert saturation(x).tolist() == [0.5, 0.0]
