"""The methods' arithmetic: against their formulas in float64, against sd-mecha, and against ComfyUI's."""

import itertools
import math

import numpy as np
import pytest
import sd_mecha  # noqa: F401  (registers the built-in methods)
import torch
from blockwork.merge.methods import METHODS, each, find, seed_for, weighted_sum
from blockwork.merge.methods.deltas import elect_and_mean, trim
from blockwork.merge.methods.linear import inverse_smoothstep
from scipy import ndimage
from sd_mecha.extensions.builtin.merge_methods import linear as mecha

RATIOS = (0.0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1.0, -0.5, 1.5, 0.1234567891)
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALVES, torch.float8_e4m3fn, torch.float8_e5m2)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inputs(name: str, shape: tuple[int, ...] = (24, 10, 3, 3), dtype: torch.dtype = torch.float16):
    method = METHODS[name]
    count = method.most or max(method.least, 4)
    return method, [draw(*shape, seed=seed + 1, dtype=dtype) for seed in range(count)]


def numbers(method, value: float = 0.3) -> dict[str, float]:
    return {name: value * (1 + index) for index, name in enumerate(method.ratios)}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("alpha", RATIOS)
@pytest.mark.parametrize("scale", (1e-6, 1.0, 300.0))
def test_native_half_lerp_is_the_fp32_lerp_rounded_once(dtype, alpha, scale):
    """The fast path of weighted_sum stands on this claim about torch."""
    a, b = (draw(50021, seed=s).mul(scale).to(dtype) for s in (1, 2))
    assert torch.equal(torch.lerp(a, b, alpha), torch.lerp(a.float(), b.float(), alpha).to(dtype))


@pytest.mark.parametrize("alpha", RATIOS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_weighted_sum_is_sd_mechas(alpha, dtype):
    a, b = (draw(1000, seed=s, dtype=dtype) for s in (1, 2))
    theirs = mecha.weighted_sum.__wrapped__({"k": a.float()}, {"k": b.float()}, torch.tensor(alpha), key="k")
    assert torch.equal(weighted_sum(a, b, alpha), theirs.to(dtype))


@pytest.mark.parametrize("alpha", RATIOS)
def test_add_difference_is_sd_mechas(alpha):
    a, b, c = (draw(1000, seed=s, dtype=torch.float16) for s in (1, 2, 3))
    delta = {"k": b.float() - c.float()}
    theirs = mecha.add_difference.__wrapped__({"k": a.float()}, delta, torch.tensor(alpha), key="k")
    assert torch.equal(METHODS["add_difference"].blend([a, b, c], {"alpha": alpha}), theirs.half())


@pytest.mark.parametrize("alpha", (0.1, 0.5, 0.9, -0.5))
def test_slerp_and_geometric_are_sd_mechas(alpha):
    a, b = draw(40, 30, seed=1), draw(40, 30, seed=2)
    ratio = torch.tensor(alpha)
    assert torch.allclose(
        METHODS["slerp"].blend([a, b], {"alpha": alpha}), mecha.slerp.__wrapped__(a, b, ratio), atol=1e-5
    )
    theirs = mecha.geometric_sum.__wrapped__(a, b, ratio)
    assert torch.allclose(METHODS["geometric"].blend([a, b], {"alpha": alpha}), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize(("m_a", "m_b"), [(0.75, 0.0), (0.2, 0.8), (1 / 3, 2 / 3), (-0.5, 1.7), (1.0, 0.25)])
def test_each_is_comfyuis_patcher(dtype, m_a, m_b):
    """comfy.lora.calculate_weight: weight *= strength_model; weight += strength * diff, in fp32."""
    a, b = draw(70001, seed=1, dtype=dtype), draw(70001, seed=2, dtype=dtype)
    core = a.float().clone()
    core *= m_a
    core += m_b * b.float()
    assert torch.equal(each(a, b, m_a, m_b), core.to(dtype))
    assert torch.equal(METHODS["each"].blend([a, b], {"m_a": m_a, "m_b": m_b}), core.to(dtype))


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_one_rounding_between_any_two_dtypes(source, target):
    """At most 2 % of elements differ from the correctly rounded float64 result; dyadic ratios are exact in it."""
    a, b = draw(20000, seed=1, dtype=source), draw(20000, seed=2, dtype=source)
    for alpha in (0.25, 0.5, 0.75, 1 / 12, 0.6):
        exact = (1 - alpha) * a.double() + alpha * b.double()
        ours = METHODS["weighted_sum"].blend([a, b], {"alpha": alpha}, dtype=target)
        assert ours.dtype == target
        if target == torch.float32:  # the arithmetic's own precision: a few units in the last place
            assert torch.allclose(ours.double(), exact, rtol=3e-7, atol=3e-7)
            continue
        wrong = (ours.double() != exact.to(target).double()).double().mean().item()
        dyadic = alpha in (0.25, 0.5, 0.75) and source != torch.float32
        assert wrong <= (0 if dyadic else 0.02), (alpha, wrong)


def test_mixed_dtypes_keep_that_of_a():
    a, b = draw(5000, seed=1, dtype=torch.float16), draw(5000, seed=2)
    assert weighted_sum(a, b, 0.3).dtype == torch.float16
    assert torch.equal(weighted_sum(a, b, 0.3), torch.lerp(a.float(), b, 0.3).half())
    assert torch.equal(weighted_sum(a, b, 1), b.half())
    assert METHODS["each"].blend([b, a], {"m_a": 0.5, "m_b": 0.5}).dtype == torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_identity_laws(name):
    """Ratios that leave A (or choose B, C) give their very bits, negative zeros and all."""
    method, tensors = inputs(name)
    tensors[0].view(-1)[:3] = torch.tensor([-0.0, 0.0, 6e-8])
    for condition, index in method.passes:
        ratios = {**numbers(method), **condition}
        out = method.blend(tensors, ratios)
        assert torch.equal(out.view(torch.int16), tensors[index].view(torch.int16)), condition


@pytest.mark.parametrize("name", [name for name in METHODS if name != "scale"])
def test_differences_of_nothing_change_nothing(name):
    """Merging A with A at ratios in [0, 1] gives A, within one unit in the last place."""
    method, tensors = inputs(name)
    ratios = {"m_a": 0.7, "m_b": 0.3} if name == "each" else {r: 0.3 for r in method.ratios}
    out = method.blend([tensors[0]] * len(tensors), ratios)
    gap = torch.nextafter(tensors[0].abs(), torch.tensor(math.inf, dtype=torch.float16)) - tensors[0].abs()
    assert ((out.float() - tensors[0].float()).abs() <= gap.float()).all()


def test_flat_half_is_symmetric_and_weighted_sum_agrees_with_each():
    a, b = draw(9999, seed=1, dtype=torch.float16), draw(9999, seed=2, dtype=torch.float16)
    assert torch.equal(weighted_sum(a, b, 0.5), weighted_sum(b, a, 0.5))
    for alpha in RATIOS:
        difference = weighted_sum(a, b, alpha).float() - each(a, b, 1 - alpha, alpha).float()
        assert difference.abs().max() <= 2**-9


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", HALVES)
def test_methods_do_not_touch_their_inputs_and_keep_dtype_and_shape(name, dtype):
    method, tensors = inputs(name, dtype=dtype)
    before = [tensor.clone() for tensor in tensors]
    out = method.blend(tensors, numbers(method), seed=5)
    assert out.dtype == dtype and out.shape == tensors[0].shape and out.float().isfinite().all()
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.elementwise])
def test_elementwise_methods_may_be_cut_anywhere(name):
    """The same bits whole, in blocks, and in ragged pieces: what chunked files rest on."""
    method, tensors = inputs(name, (100003,))
    ratios = numbers(method)
    whole = method.function(*tensors, **{**method.options, **ratios})
    assert torch.equal(method.blend(tensors, ratios), whole)
    cuts = [0, 1, 7, 40, 32768, 32775, 99999, 100003]
    pieces = [method.blend([t[i:j] for t in tensors], ratios) for i, j in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if name not in ("smooth_add",)])
def test_the_number_of_torch_threads_changes_no_bit(name):
    method, tensors = inputs(name, (300, 401))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(method.blend(tensors, numbers(method), seed=3))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


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
    assert trim(delta, 0.4).nonzero().flatten().tolist() == [1, 2, 5, 8]
    assert torch.equal(trim(delta, 1.0), delta) and not trim(delta, 0.0).any()


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


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.seeded])
def test_random_methods_repeat_with_their_seed(name):
    method, tensors = inputs(name)
    first, again, other = (method.blend(tensors, numbers(method), seed=s) for s in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert seed_for(1, "a") == seed_for(1, "a") != seed_for(1, "b") and seed_for(1, "a") != seed_for(2, "a")


@pytest.mark.parametrize("name", METHODS)
def test_scalars_and_empty_tensors_pass(name):
    method = METHODS[name]
    count = method.most or method.least
    for shape in ((), (0,), (1,)):
        out = method.blend([torch.ones(shape) * (i + 1) for i in range(count)], numbers(method), seed=1)
        assert out.shape == shape


def test_every_method_says_where_it_is_from_and_unknown_names_list_the_known():
    assert all(method.source and method.title and method.function.__doc__ for method in METHODS.values())
    assert len(METHODS) >= 18
    with pytest.raises(ValueError, match="weighted_sum"):
        find("weighted sum")
