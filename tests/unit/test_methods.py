"""The methods' arithmetic: against their formulas in float64, against sd-mecha, and against ComfyUI's."""

import itertools
import math

import pytest
import sd_mecha  # noqa: F401  (registers the built-in methods)
import torch
from blockwork.merge.methods import METHODS, each, seed_for, weighted_sum
from blockwork.tests.support.methods_kit import draw, inputs, numbers
from sd_mecha.extensions.builtin.merge_methods import linear as mecha

RATIOS = (0.0, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 1.0, -0.5, 1.5, 0.1234567891)
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALVES, torch.float8_e4m3fn, torch.float8_e5m2)


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
