"""What the tests of IF stages share: the smallest stage and three text encodings."""

import pytest
from blockwork.tests.support.cascade_kit import minimal_stage, three_texts


@pytest.fixture(scope="module")
def stage():
    return minimal_stage()


@pytest.fixture(scope="module")
def texts():
    return three_texts()
