"""The arithmetic of mixing contexts, against attention written out."""

import math

import pytest
import torch
from blockwork.blocks.walk import SubBlock
from blockwork.injection import conditioning, mixing
from blockwork.injection.entries import Stretch
from blockwork.injection.mixing import Mix
from blockwork.injection.passes import Chunk, Pass
from torch import Tensor

GENERATOR = torch.Generator().manual_seed(0)
LAYER: SubBlock = ("middle", 0, 0)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def parts(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention's numerator and denominator."""
    kernel = (query @ keys.transpose(1, 2) / math.sqrt(query.shape[-1])).exp()
    return kernel @ values, kernel.sum(-1, keepdim=True)


def attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    over, under = parts(query, keys, values)
    return over / under


def test_repeating_leaves_attention_alone_and_zeros_do_not():
    query, context = draw(2, 5, 8), draw(2, 6, 8)
    expected = attention(query, context, context)
    repeated = mixing.fit_tokens(context, 18)
    torch.testing.assert_close(attention(query, repeated, repeated), expected, rtol=0, atol=1e-12)
    padded = torch.cat([context, torch.zeros_like(context)], 1)
    over, under = parts(query, context, context)
    torch.testing.assert_close(attention(query, padded, padded), over / (under + 6), rtol=0, atol=1e-12)
    assert (attention(query, padded, padded) - expected).abs().max() > 0.1


def test_concat_is_the_weighted_sum_of_both_attentions():
    """O = (Z0 O0 + Z1 O1) / (Z0 + Z1)."""
    query, first, second = draw(2, 5, 8), draw(2, 6, 8), draw(2, 3, 8)
    joined = mixing.mixed(Mix("concat", "kv", 1.0, second), first)
    (over0, under0), (over1, under1) = parts(query, first, first), parts(query, second, second)
    expected = (over0 + over1) / (under0 + under1)
    torch.testing.assert_close(attention(query, joined, joined), expected, rtol=0, atol=1e-12)


def test_lengths_meet_at_their_common_multiple():
    one, two, three = mixing.same_length([draw(1, 77, 4), draw(1, 154, 4), draw(1, 231, 4)])
    assert one.shape[1] == two.shape[1] == three.shape[1] == 462
    same = draw(1, 77, 4)
    assert mixing.fit_tokens(same, 77) is same


def test_batches_of_prompts():
    tokens = draw(2, 3, 4)
    assert mixing.batch_rows(tokens, 2) is tokens
    assert torch.equal(mixing.batch_rows(tokens[:1], 3), tokens[:1].repeat(3, 1, 1))
    assert torch.equal(mixing.batch_rows(tokens, 5), tokens.repeat(3, 1, 1)[:5])
    assert torch.equal(mixing.batch_rows(tokens, 1), tokens[:1])


def test_lerp_and_add_at_their_ends():
    base, tokens, reference = draw(1, 3, 4), draw(1, 3, 4), draw(1, 3, 4)
    assert mixing.lerp(base, tokens, 1.0) is tokens
    assert torch.equal(mixing.lerp(base, tokens, 0.0), base)
    assert torch.equal(mixing.lerp(base, tokens, 2.0), base * -1.0 + tokens * 2.0)
    assert torch.equal(mixing.add(base, tokens, tokens, 0.7), base)
    torch.testing.assert_close(mixing.add(base, tokens, reference, 1.0), base + tokens - reference)


def test_keys_and_values_part_only_when_asked():
    base, tokens = draw(1, 3, 4), draw(1, 3, 4)
    keys, values = mixing.apply_mixes([Mix("replace", "kv", 1.0, tokens)], base, base)
    assert keys is values
    keys, values = mixing.apply_mixes([Mix("replace", "k", 1.0, tokens)], base, base)
    assert torch.equal(keys, tokens) and values is base
    keys, values = mixing.apply_mixes(
        [Mix("replace", "v", 1.0, tokens), Mix("lerp", "kv", 0.5, tokens)], base, base
    )
    assert torch.equal(keys, base * 0.5 + tokens * 0.5)
    torch.testing.assert_close(values, tokens)
    longer = draw(1, 6, 4)
    keys, values = mixing.apply_mixes([Mix("replace", "k", 1.0, longer)], base, base)
    keys, values = mixing.join([keys], [values])
    assert keys.shape == values.shape == (1, 6, 4)


def test_a_pass_uses_each_prompts_own_length():
    """ComfyUI repeats the shorter prompt of a batch; mixing starts from what it was before."""
    own, other, tokens = draw(1, 3, 4), draw(1, 6, 4), draw(1, 3, 4)
    context = torch.cat([other, own.repeat(1, 2, 1)])
    chunks = [Chunk({}, 1, 6), Chunk({LAYER: (Mix("concat", "kv", 1.0, tokens),)}, 1, 3)]
    keys, values = Pass(chunks, context, context).contexts(LAYER, context, context)
    assert keys is values
    assert torch.equal(keys, torch.cat([other, torch.cat([own, tokens], 1)]))
    untouched = Pass(chunks, context, context).contexts(("input", 1, 0), context, context)
    assert untouched[0] is context and untouched[1] is context


def test_a_pass_mixes_before_the_cast():
    own, tokens = draw(1, 3, 4).float(), draw(1, 3, 4).float()
    half = own.half()
    chunk = Chunk({LAYER: (Mix("lerp", "kv", 0.3, tokens),)}, 1, 3)
    keys, _ = Pass([chunk], half, own).contexts(LAYER, half, half)
    assert torch.equal(keys, (own * (1 - 0.3) + tokens * 0.3).half())


def test_pooled_embeddings():
    base, other = draw(1, 4), draw(2, 4)
    assert conditioning.mixed_pooled(base, other, 1.0) is other
    assert conditioning.mixed_pooled(None, other, 0.5) is other
    mixed = conditioning.mixed_pooled(base, other, 0.25)
    assert torch.equal(mixed, base * 0.75 + other * 0.25)
    with pytest.raises(ValueError, match="no pooled"):
        conditioning.check_pooled([Stretch(torch.zeros(1, 3, 4))])


def test_lengths_without_a_common_multiple_stay_bounded():
    """The law: contexts are as long as ComfyUI would batch, or the first one whole and the second cut to fit."""
    for first in (8, 64, 77, 85, 154, 231, 248):
        for second in (8, 64, 77, 85, 154, 231, 248):
            a, b = draw(1, first, 2), draw(1, second, 2)
            for weight in (0.3, 1.0):
                for mix in (
                    Mix("replace", "kv", weight, b),
                    Mix("replace", "k", weight, b),
                    Mix("add", "kv", weight, b, a),
                ):
                    keys, values = mixing.join(*([one] for one in mixing.apply_mixes([mix], a, a)))
                    assert keys.shape == values.shape
                    assert keys.shape[1] == mixing.mixed_lengths([mix], first) <= 4 * max(first, second)
            assert torch.equal(mixing.lerp(a, b, 0.0)[:, :first], a)
            whole = mixing.lerp(a, torch.zeros_like(b), 0.5)
            assert whole.shape[1] % first == 0  # the context that is mixed into is never cut


def test_chunks_join_a_batch_where_comfyui_would():
    own = Chunk({}, 1, 77)
    for length, fits in ((77, True), (154, True), (308, True), (385, False), (85, False), (64, False)):
        other = Chunk({LAYER: (Mix("replace", "kv", 1.0, draw(1, length, 4)),)}, 1, 77)
        assert own.fits(other) == other.fits(own) == fits
