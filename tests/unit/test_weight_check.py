"""What a weight text can be told before a model is known."""

import pytest
from blockwork.blocks.names import BlockError
from blockwork.blocks.weight_check import check


@pytest.mark.parametrize("text", ["0.5", "GRAD_V", "1, 2, 3", "D00-D07=0.3, XX99=2", "flux: MINE: 1, 1", "LAST_THIRD", "MY CURVE, IN00=1", "IN04=off", "CUBIC_HERMITE"])  # fmt: skip
def test_texts_that_some_model_can_take(text: str):
    check(text, {"MY CURVE"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GRAD_W", "Did you mean GRAD_V"),
        ("nan", "finite"),
        ("IN00=inf", "finite"),
        ("IN00=1e999", "range of numbers"),
        ("IN00=x", "'x' is not a number"),
        ("0.5,, 1", "empty item"),
        ("=1", "empty item"),
        ("", "No weights"),
        ("1" * 20_000, "limit"),
    ],
)
def test_texts_that_no_model_can_take(text: str, said: str):
    with pytest.raises(BlockError, match=said):
        check(text)
