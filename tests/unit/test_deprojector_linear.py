"""Every way of computing a product gives the plain product."""

import pytest
import torch
import torch.nn.functional as F
from blockwork.deprojector import linear
from blockwork.deprojector.linear import IN_PIECES, INPUTS_FIRST, PACKED, Linear, way_for

SHAPES = [(96, 64), (40, 2100), (2100, 40)]  # inputs, outputs
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-13}


def layers(inputs, outputs, units, dtype):
    torch.manual_seed(0)
    weights = [torch.randn(outputs, inputs, dtype=dtype) / inputs**0.5 for _ in range(units)]
    return weights, [torch.randn(outputs, dtype=dtype) for _ in range(units)]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@torch.no_grad()
def test_every_number_of_rows(inputs, outputs, units, dtype):
    weights, biases = layers(inputs, outputs, units, dtype)
    with_bias, without = Linear(weights, biases), Linear(weights)
    for rows in (1, 2, 6, 7, 16, 17, 2):  # and back: the layout of the way before is let go
        x = torch.randn(units, rows, inputs, dtype=dtype)
        base = torch.randn(units, rows, outputs, dtype=dtype)
        plain = torch.stack([F.linear(part, weight) for part, weight in zip(x, weights, strict=True)])
        expected = {
            "bias": (with_bias(x), plain + torch.stack(biases)[:, None]),
            "none": (without(x), plain),
            "base": (without.added_to(base, x), plain + base),
            "chunk": (with_bias(x[:, :, None]), (plain + torch.stack(biases)[:, None])[:, :, None]),
        }
        for name, (result, wanted) in expected.items():
            torch.testing.assert_close(result, wanted, rtol=0, atol=CLOSE[dtype], msg=f"{name}, {rows} rows")


def test_the_ways_are_taken():
    wide, tall = torch.empty(2048, 64), torch.empty(64, 2048)
    with torch.no_grad():
        assert way_for(wide, 1) is INPUTS_FIRST and way_for(tall, 1) is None
        assert way_for(wide, 7) is IN_PIECES and way_for(tall, 7) is None
        assert way_for(wide, 17) is None
        assert way_for(wide, 2) is (PACKED if linear.CAN_PACK else IN_PIECES)
        assert way_for(wide.double(), 2) is IN_PIECES
        assert way_for(wide.to("meta"), 2) is None
    assert way_for(wide, 2) is None, "autograd cannot go through these"


def test_a_build_that_cannot_pack(monkeypatch):
    monkeypatch.setattr(linear, "CAN_PACK", False)
    weights, _ = layers(96, 64, 1, torch.float32)
    x = torch.randn(1, 3, 96)
    with torch.no_grad():
        assert way_for(weights[0], 3) is None
        torch.testing.assert_close(Linear(weights)(x)[0], F.linear(x[0], weights[0]))


def test_gradients_go_through():
    weights, biases = layers(96, 64, 2, torch.float32)
    layer = Linear([weight.requires_grad_() for weight in weights], biases)
    layer(torch.randn(2, 3, 96)).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)
