"""What the tests of injection share: a tiny U-Net and three prompts."""

import pytest
from blockwork.tests.support.injection_kit import prompt, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("sd1")


@pytest.fixture
def prompts():
    """Positive, negative and the injected prompt."""
    return prompt(1), prompt(2), prompt(3)
