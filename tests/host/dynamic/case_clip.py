"""Merged text encoders under dynamic loading: what is encoded."""

import device
import kit
import pytest
import torch
from blockwork.demo_models import host as demo
from blockwork.merge.live import host

POSITIONS = "clip_l.transformer.text_model.embeddings.position_embedding.weight"


def encoded(clip, text="a red circle"):
    cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    kit.end_of_node()
    return [device.on_host(tensor).clone() for tensor in (cond, pooled)]


@pytest.fixture
def pair():
    """Two text encoders that differ in the position embedding alone."""
    a, b = demo.load_clip(), demo.load_clip()
    module = b.cond_stage_model.clip_l.transformer.text_model.embeddings.position_embedding
    noise = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(2)) * 0.05
    module.weight.data = (module.weight.float() + noise).to(module.weight.dtype)
    assert module.weight.nbytes > 16384  # core gives it a page, and reads the weight beside it
    return a, b


def test_the_position_embedding_is_merged(pair):
    a, b = pair
    only_a, only_b = encoded(a), encoded(b)
    merged, half = (host.merge_clips(a, b, ratio)[0] for ratio in (1.0, 0.5))
    for _ in range(2):
        assert all(map(torch.equal, encoded(merged), only_b))
        assert all(map(torch.equal, encoded(a), only_a))
    first = encoded(half)
    assert all(map(torch.equal, encoded(half), first))


def test_its_page_is_allocated_once(pair):
    a, b = pair
    encoded(a)
    one, two = (host.merge_clips(a, b, ratio)[0] for ratio in (0.25, 0.75))
    encoded(one)
    pages = a.patcher.model.dynamic_vbars[device.GPU]
    before = pages.offset
    for clip in (two, one, two):
        encoded(clip)
        expected = (
            a.patcher.backup[POSITIONS].weight.float() * (0.25 if clip is two else 0.75)
            + b.patcher.model_state_dict()[POSITIONS].float() * (0.75 if clip is two else 0.25)
        ).to(torch.float16)
        assert torch.equal(kit.loaded_weights(clip.patcher, use=False)[POSITIONS], expected)
    assert pages.offset == before
