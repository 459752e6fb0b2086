"""Merges of MODELs under dynamic loading: the weights that the loaded module computes with."""

import kit
import pytest
import torch
from blockwork.demo_models import host as demo
from blockwork.merge.live import host


@pytest.fixture(scope="module")
def base():
    return demo.load_model("base")


@pytest.fixture(scope="module")
def ink():
    return demo.load_model("ink")


def test_scaled_blocks_sample(base):
    """A scale patch reads A alone; core gathers a patch's tensors and cannot gather none."""
    model = host.scale_blocks(base, "IN04=0.75")[0]
    before = kit.loaded_weights(kit.load(base))
    result = kit.sample(model)
    assert torch.isfinite(result).all()
    after = kit.loaded_weights(model, use=False)
    for key in model.patches:
        assert torch.equal(after[key], (before[key].float() * 0.75).to(before[key].dtype)), key
