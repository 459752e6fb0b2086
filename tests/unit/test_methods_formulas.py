"""Each method against its formula, in float64 or by hand."""

import math

import numpy as np
import pytest
import sd_mecha  # noqa: F401  (registers the built-in methods)
import torch
from blockwork.merge.methods import METHODS
from blockwork.merge.methods.deltas import elect_and_mean, threshold, trim
from blockwork.merge.methods.linear import inverse_smoothstep
from blockwork.merge.methods.measure import smallest_of_largest
from blockwork.tests.support.methods_kit import inputs, numbers
from scipy import ndimage


def reference(name: str):
    """The formulas of the registry's sources, in float64."""

    def train(a, b, c, alpha):
        total = abs(b - c) + abs(b - a)
        return a + 1.8 * alpha * np.sign(b - c) * abs(b - c) * np.where(
            total, abs(b - a) / np.where(total, total, 1), 0
        )

    def similarity(a, b, c, alpha, beta):
        s = beta * (a * b / np.maximum(abs(a), abs(b)) ** 2 + 1) / 2
        return (1 - s) * (a + alpha * (b - c)) + s * ((1 - alpha / 2) * a + alpha / 2 * b)

    def extract(a, b, c, alpha, beta):
        b, c = b - a, c - a
        cos = (b * c).sum(-1, keepdims=True) / np.sqrt(
            (b * b).sum(-1, keepdims=True) * (c * c).sum(-1, keepdims=True)
        )
        d = (cos + 1) / 2
        return a + ((1 - alpha) * b + alpha * c) * ((1 - beta) * d + beta * (1 - d))

    def smooth(a, b, c, alpha):
        return a + alpha * ndimage.gaussian_filter(ndimage.median_filter(b - c, size=3), sigma=1)

    def average(*models, alpha):
        return (1 - alpha) * models[0] + alpha * sum(models) / len(models)

    return {
        "weighted_sum": lambda a, b, alpha: (1 - alpha) * a + alpha * b,
        "each": lambda a, b, m_a, m_b: m_a * a + m_b * b,
        "add_difference": lambda a, b, c, alpha: a + alpha * (b - c),
        "sum_twice": lambda a, b, c, alpha, beta: (1 - beta) * ((1 - alpha) * a + alpha * b) + beta * c,
        "triple_sum": lambda a, b, c, alpha, beta: (1 - alpha - beta) * a + alpha * b + beta * c,
        "scale": lambda a, alpha: alpha * a,
        "average": average,
        "train_difference": train,
        "similarity_add_difference": similarity,
        "extract": extract,
        "smooth_add": smooth,
    }[name]


@pytest.mark.parametrize(
    "name",
    ["weighted_sum", "each", "add_difference", "sum_twice", "triple_sum", "scale", "average", "train_difference",
     "similarity_add_difference", "extract", "smooth_add"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 3), (11,)])
def test_formulas_in_float64(name, shape):
    method, tensors = inputs(name, shape, torch.float32)
    ratios = numbers(method)
    exact = reference(name)(*(t.double().numpy() for t in tensors), **ratios)
    assert np.allclose(method.blend(tensors, ratios).double().numpy(), exact, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 3), (11,)])
def test_cosine_is_supermergers(which, shape):
    """k = clip((sim - min) / (max - min) - alpha), sim from dimension 0 and the whole, min and max of the model."""
    method, (a, b) = inputs(f"cosine_{which}", shape, torch.float32)
    x, y = a.double(), b.double()
    if which == "a":
        x, y = (t / t.norm(dim=0, keepdim=True) for t in (x, y))
    columns = (x * y).sum(0) / (x.norm(dim=0) * y.norm(dim=0))
    likeness = (columns + (x * y).sum() / (x.norm() * y.norm())) / 2
    k = ((likeness - -0.4) / (0.6 - -0.4) - 0.2).clip(0, 1)
    exact = b.double() * (1 - k) + a.double() * k
    ours = method.blend([a, b], {"alpha": 0.2}, {"low": -0.4, "high": 0.6})
    assert torch.allclose(ours.double(), exact, atol=1e-5)


def test_cosine_span_cuts_one_percent_on_either_side():
    method = METHODS["cosine_b"]
    assert method.conclude
    span = method.conclude([torch.linspace(-1, 1, 1001), torch.tensor(float("nan"))])
    assert span["low"] == pytest.approx(-0.98, abs=0.003) and span["high"] == pytest.approx(0.98, abs=0.003)


def test_tensor_sum_replaces_rows_and_wraps():
    a, b = torch.zeros(10, 2), torch.ones(10, 2)

    def rows(alpha: float, beta: float) -> list[float]:
        return METHODS["tensor_sum"].blend([a, b], {"alpha": alpha, "beta": beta})[:, 0].tolist()

    assert rows(0.3, 0.5) == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert rows(0.5, 0.7) == [1, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    assert rows(1.0, 0.0) == [1] * 10
    with pytest.raises(ValueError, match="from 0 to 1"):
        rows(1.5, 0)


def test_sigmoid_inverts_the_smoothstep():
    for m in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        smooth = inverse_smoothstep(m)
        assert 3 * smooth**2 - 2 * smooth**3 == pytest.approx(m, abs=1e-12)
    with pytest.raises(ValueError, match="from 0 to 1"):
        inverse_smoothstep(1.2)


def test_trim_keeps_the_largest_share():
    delta = torch.tensor([0.1, -5.0, 3.0, 0.2, -0.3, 4.0, 0.0, 1.0, -2.0, 0.5])

    def kept(density: float) -> torch.Tensor:
        return trim(delta, threshold(torch.zeros(10), delta, density))

    assert kept(0.4).nonzero().flatten().tolist() == [1, 2, 5, 8]
    assert torch.equal(kept(1.0), delta) and not kept(0.0).any()


def test_ties_elects_by_mass_not_by_heads():
    """Two small minuses against one large plus: the paper's vote goes to plus, a count of heads to minus."""
    plus, minus = torch.tensor([3.0]), torch.tensor([-1.0])
    assert elect_and_mean([plus, minus, minus]).item() == 3.0
    assert elect_and_mean([plus, plus + 2, minus]).item() == 4.0
    assert elect_and_mean([plus, -plus]).item() == 0.0


def test_ties_by_hand():
    base = torch.zeros(4)
    first, second = torch.tensor([4.0, 1.0, -3.0, 0.1]), torch.tensor([2.0, -5.0, 0.2, 3.0])
    out = METHODS["ties"].blend([base, first, second], {"alpha": 0.5}, {"density": 0.5})
    assert out.tolist() == [2.0, -2.5, -1.5, 1.5]


def test_dare_drops_and_rescales_without_bias():
    a, b = torch.zeros(400, 500), torch.ones(400, 500)
    out = METHODS["dare"].blend([a, b], {"alpha": 1.0}, {"drop": 0.75}, seed=1)
    assert set(out.unique().tolist()) == {0.0, 4.0}
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="below 1"):
        METHODS["dare"].blend([a, b], {"alpha": 1.0}, {"drop": 1.0})


def test_della_drops_small_elements_more_often_and_stays_unbiased():
    rows = torch.arange(1, 1001.0).repeat(400, 1)
    out = METHODS["della"].blend(
        [torch.zeros_like(rows), rows], {"alpha": 1.0}, {"drop": 0.5, "window": 0.4}, seed=2
    )
    kept = (out != 0).float().mean(0)
    assert kept[:100].mean().item() == pytest.approx(0.32, abs=0.02)  # 1 - (0.5 + 0.2), a little above
    assert kept[-100:].mean().item() == pytest.approx(0.68, abs=0.02)
    assert (out.mean(0) / rows[0])[500:].mean().item() == pytest.approx(1.0, abs=0.02)


def test_model_stock_is_the_papers_ratio():
    base, x, y = torch.zeros(2, 2), torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[1.0, 1.0], [0, 0]])
    cos = 1 / math.sqrt(2)
    expected = 2 * cos / (1 + cos) * (x + y) / 2
    assert torch.allclose(METHODS["model_stock"].blend([base, x, y], {"alpha": 1.0}), expected)
    assert not METHODS["model_stock"].blend([base, x, -x], {"alpha": 1.0}).any()  # opposite tasks cancel


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_of_ties_is_the_kth_value(seed):
    """Counting bits finds the number that sorting finds, with ties, zeros and all magnitudes."""
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(5000, generator=g) * 10.0 ** torch.randint(-30, 30, (5000,), generator=g)
    values[torch.randint(0, 5000, (900,), generator=g)] = values[0].clone()
    values[torch.randint(0, 5000, (900,), generator=g)] = 0.0
    for keep in (1, 2, 777, 2500, 4999, 5000):
        found = smallest_of_largest(lambda: values.abs().split(1003), keep)
        assert found == values.abs().kthvalue(5000 - keep + 1).values.item()
