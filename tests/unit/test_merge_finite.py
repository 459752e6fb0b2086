"""Finding NaN and infinity: in small and large tensors, of every kind, wherever they stand."""

import pytest
import torch
from blockwork.merge.methods.finite import all_finite
from blockwork.merge.methods.registry import BLOCK

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("count", [1, BLOCK, 3 * BLOCK + 5])
def test_one_bad_element_is_found_wherever_it_stands(dtype, count):
    clean = torch.linspace(-200, 200, count).to(dtype)
    assert all_finite(clean)
    bad = [float("nan")] if dtype == torch.float8_e4m3fn else [float("nan"), float("inf"), float("-inf")]
    for value in bad:
        for place in {0, count // 2, count - 1}:
            spoilt = clean.float()
            spoilt[place] = value
            assert not all_finite(spoilt.to(dtype)), (value, place)


def test_infinities_that_cancel_are_found():
    values = torch.zeros(2 * BLOCK, dtype=torch.float16)
    values[0], values[1] = float("inf"), float("-inf")
    assert not all_finite(values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_large_numbers_whose_sum_overflows_are_finite(dtype):
    assert all_finite(torch.full((2 * BLOCK,), 3e38, dtype=dtype))


def test_a_view_with_gaps_is_read_as_it_lies():
    values = torch.zeros(4, BLOCK)
    values[:, -1] = float("nan")
    assert all_finite(values[:, :-1])
    assert not all_finite(values[:, 1:])


def test_nothing_and_whole_numbers_are_finite():
    assert all_finite(torch.zeros(0)) and all_finite(torch.full((BLOCK * 2,), 7))
