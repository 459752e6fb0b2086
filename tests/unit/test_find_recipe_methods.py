"""Find Recipe names the method where no shares fit, and its products are as exact as it says."""

import pytest
import torch
from blockwork.merge import find
from blockwork.merge.find.solve import CHUNK, PRECISION, products
from blockwork.merge.methods import METHODS
from blockwork.tests.support.merged_models import Tensors, drawn, found_in, furthest, merged, parents


def shaped(models: list[Tensors]) -> list[Tensors]:
    """The weights as matrices, which some methods need."""
    return [{key: x if key.endswith("bias") else x.reshape(64, -1) for key, x in m.items()} for m in models]


@pytest.mark.parametrize(
    "name, alpha", [("slerp", 0.3), ("geometric", 0.4), ("cosine_a", 0.2), ("ties", 0.6)]
)
def test_the_method_is_named_where_no_shares_fit(name: str, alpha: float):
    models = shaped(parents("sd1", 3 if name == "ties" else 2, torch.float16, near=0.6))
    method = METHODS[name]
    whole = [[model[key] for model in models] for key in models[0]]
    options = method.conclude([method.survey(*tensors) for tensors in whole]) if method.survey else {}
    merge = {
        key: method.blend(tensors, {"alpha": alpha}, options)
        for key, tensors in zip(models[0], whole, strict=True)
    }
    found = found_in(merge, models)
    assert found.nearest and {one.method.name for one in found.nearest} == {name}
    assert all(one.models == tuple(range(len(models))) for one in found.nearest)
    assert all(one.alpha == pytest.approx(alpha, abs=0.03) for one in found.nearest)
    fits = name != "cosine_a"  # its range of likenesses is that of the whole model, here of a few tensors
    assert all(one.fits for one in found.nearest) or not fits
    assert f"The nearest known method is {method.title} of A" in find.report(found)


def test_no_method_is_named_where_a_parent_is_missing():
    models, shares = parents("sd1", 3, torch.float16), drawn("sd1", 3)
    found = found_in(merged("sd1", models, shares), models[:2])
    assert not all(block.fits for block in found.blocks.values())
    assert not found.nearest and "nearest known method" not in find.report(found)


def test_add_difference_is_named():
    models = parents("sd1", 3, torch.float16)
    merge = {
        key: METHODS["add_difference"].blend([m[key] for m in models], {"alpha": 0.7}) for key in models[0]
    }
    found = found_in(merge, models)
    assert all(block.fits for block in found.blocks.values())
    assert "shares are those of add difference: A + alpha (B - C)." in find.report(found)


@pytest.mark.parametrize("spread", ["positive", "mixed", "wide"])
def test_products_in_float32_are_as_exact_as_they_say(spread: str):
    g = torch.Generator().manual_seed(1)
    columns = torch.randn(4, 64 * CHUNK, generator=g)
    if spread == "positive":
        columns = columns.abs() + 1
    elif spread == "wide":
        columns *= torch.logspace(-6, 3, columns.shape[1])
    exact = columns.double() @ columns.double().T
    lengths = exact.diagonal().sqrt()
    error = (products(columns) - exact).abs() / (lengths[:, None] * lengths)
    assert float(error.max()) < PRECISION[torch.float32]


def test_numbers_that_float32_cannot_square_are_found_too():
    models, shares = parents("sd1", 2, torch.bfloat16), drawn("sd1", 2)
    models = [{key: x * 2.0**100 for key, x in model.items()} for model in models]
    assert furthest(found_in(merged("sd1", models, shares), models), shares) < 2e-3


def test_a_merge_in_float32_is_told_to_its_last_digits():
    models, shares = parents("sd1", 2, torch.float32), drawn("sd1", 2)
    found = found_in(merged("sd1", models, shares), models)
    assert furthest(found, shares) < 1e-6 and all(block.fits for block in found.blocks.values())
    merge = {
        key: x + 3e-6 * torch.randn(x.shape).mul(x.abs()) for key, x in merged("sd1", models, shares).items()
    }
    assert not any(block.fits for block in found_in(merge, models).blocks.values())
