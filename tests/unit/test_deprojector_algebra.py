"""Embedding arithmetic: the original's formulas, weights, and the cases where it divided by zero."""

import doctest

import pytest
import torch
from blockwork.deprojector import after_end, algebra
from blockwork.deprojector.algebra import Chunk, image_embedding, lerp, match_norm, merged, parse, slerp
from blockwork.deprojector.errors import DeprojectorError


@pytest.fixture
def vectors():
    torch.manual_seed(5)
    return list(torch.randn(4, 768)), torch.randn(768)


def original(embeds, null, diff_only, normalize):
    """The published formula, written out."""
    if diff_only:
        embeds = [e - null for e in embeds]
        total = sum(embeds) + null
    else:
        total = sum(embeds)
    if normalize:
        total = total * (sum(torch.norm(e) for e in embeds) / len(embeds) / torch.norm(total))
    return total


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("diff_only", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_bit_equal_to_the_original(vectors, count, diff_only, normalize):
    embeds, null = vectors
    merge, norm = "difference" if diff_only else "sum", "original" if normalize else "off"
    result = merged(embeds[:count], null, merge=merge, norm=norm)
    assert torch.equal(result, original(embeds[:count], null, diff_only, normalize))


def test_weights(vectors):
    embeds, null = vectors
    weights = [1.3, -0.4, 0.0, 2.0]
    expected = null + sum(w * (e - null) for w, e in zip(weights, embeds, strict=True))
    torch.testing.assert_close(merged(embeds, null, weights), expected)
    torch.testing.assert_close(merged(embeds, null, [1.0] * 4), merged(embeds, null))
    torch.testing.assert_close(merged(embeds[:1], null, [1.0]), embeds[0])
    torch.testing.assert_close(merged(embeds[:2], null, [1, 3], "mean"), (embeds[0] + 3 * embeds[1]) / 4)


@pytest.mark.parametrize("merge", algebra.MERGES)
@pytest.mark.parametrize("norm", algebra.NORMS)
def test_order_does_not_matter_and_nothing_is_the_empty_text(vectors, merge, norm):
    embeds, null = vectors
    torch.testing.assert_close(
        merged(embeds, null, [1, 2, 3, 4], merge, norm),
        merged(embeds[::-1], null, [4, 3, 2, 1], merge, norm),
        rtol=1e-5,
        atol=1e-5,
    )
    assert torch.equal(merged([], null, merge=merge, norm=norm), null)


def test_consistent_norm(vectors):
    embeds, null = vectors
    result = merged(embeds, null, norm="consistent")
    expected = sum(torch.norm(e - null) for e in embeds) / 4
    torch.testing.assert_close(torch.norm(result - null), expected)
    assert torch.equal(merged([null], null, norm="consistent"), null)


def test_errors(vectors):
    embeds, null = vectors
    with pytest.raises(DeprojectorError, match="4 embeddings need as many weights, got 1"):
        merged(embeds, null, [1.0])
    with pytest.raises(DeprojectorError, match="do not add up to zero"):
        merged(embeds[:2], null, [1.0, -1.0], "mean")
    with pytest.raises(DeprojectorError, match="Unknown merge 'product'"):
        merged(embeds, null, merge="product")


def test_paths_between_two(vectors):
    (a, b, *_), null = vectors
    for t in (0.0, 1.0):
        end = (a, b)[int(t)]
        torch.testing.assert_close(lerp(a, b, t), end)
        torch.testing.assert_close(slerp(a, b, t), end)
        torch.testing.assert_close(slerp(a, b, t, null), end)
    middle = slerp(a, b, 0.5, null) - null
    torch.testing.assert_close(torch.norm(middle), (torch.norm(a - null) + torch.norm(b - null)) / 2)
    angle = torch.cosine_similarity(middle, a - null, dim=0)
    torch.testing.assert_close(angle, torch.cosine_similarity(middle, b - null, dim=0))
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, -a, 0.3), lerp(a, -a, 0.3))
    torch.testing.assert_close(slerp(null, b, 0.25, null), lerp(null, b, 0.25))
    near = a + 1e-5 * b
    torch.testing.assert_close(slerp(a, near, 0.5), (a + near) / 2)


def test_norms(vectors):
    (a, *_), _ = vectors
    torch.testing.assert_close(torch.norm(match_norm(a, 3.0)), torch.tensor(3.0))
    assert torch.equal(match_norm(torch.zeros(4), 3.0), torch.zeros(4))


def test_an_image_comes_to_the_pooled_space():
    torch.manual_seed(1)
    forth = torch.randn(16, 16, dtype=torch.float64)
    inverse = torch.linalg.inv(forth)
    text, other, null = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(image_embedding(forth @ text, inverse, null), text)
    shifted = image_embedding(forth @ text, inverse, null, forth @ other)
    torch.testing.assert_close(shifted, inverse @ (forth @ text - forth @ other) + null)
    torch.testing.assert_close(shifted, text - other + null)
    with pytest.raises(DeprojectorError, match=r"has 1024 numbers.*needs 16.*ViT-L/14"):
        image_embedding(torch.zeros(1024), inverse, null)


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("", []),
        (" , ,", []),
        ("cat", [("cat", 1.0)]),
        ("cat:1.2, maid:-0.3", [("cat", 1.2), ("maid", -0.3)]),
        ("(blue eyes:1.5),boy", [("blue eyes", 1.5), ("boy", 1.0)]),
        ("ratio 16:9 poster:x", [("ratio 16:9 poster:x", 1.0)]),
        ("a: b", [("a: b", 1.0)]),
        (":2", [(":2", 1.0)]),
        ("one\\, two:0.5", [("one, two", 0.5)]),
        ("(plain)", [("(plain)", 1.0)]),
        ("clock at 12:30", [("clock at 12:30", 1.0)]),
        ("(clock at 12\\:30:2), dog", [("clock at 12:30", 2.0), ("dog", 1.0)]),
        ("(cat, dog:1.2)", [("cat, dog", 1.2)]),
        ("(cat, dog), (a, (b, c):2)", [("(cat, dog)", 1.0), ("a, (b, c)", 2.0)]),
        ("(a) and (b:2)", [("(a) and (b:2)", 1.0)]),
        ("cat :), dog:2", [("cat :)", 1.0), ("dog", 2.0)]),
        ("note\\:2", [("note:2", 1.0)]),
        ("cat:1_0", [("cat:1_0", 1.0)]),
    ],
)  # fmt: skip
def test_parsing(text, chunks):
    assert parse(text) == [Chunk(*chunk) for chunk in chunks]


def test_parsing_lines_and_errors():
    assert parse("cat, dog:2\nmaid:-1", "\n") == [Chunk("cat, dog", 2.0), Chunk("maid", -1.0)]
    with pytest.raises(DeprojectorError, match="'cat' must be a finite number, got 'inf'"):
        parse("cat:inf")
    assert doctest.testmod(algebra).failed == 0


def test_behind_the_end():
    torch.manual_seed(0)
    states, embeds = torch.randn(2, 9, 8), torch.randn(2, 8)
    states[0, 3], states[1, 8] = embeds[0], 2 * embeds[1]
    end = after_end.find_end(states, embeds)
    assert end.tolist() == [3, 8]
    faded = after_end.faded(states, end, 0.25)
    assert torch.equal(faded[0, :4], states[0, :4])
    assert torch.equal(faded[1], states[1])
    torch.testing.assert_close(faded[0, 4:], 0.75 * states[0, 4:])
    noisy = after_end.with_noise(states, end, 1.0, seed=4)
    assert torch.equal(noisy[0, :4], states[0, :4])
    assert torch.equal(noisy, after_end.with_noise(states, end, 1.0, seed=4))
    assert not torch.equal(noisy, after_end.with_noise(states, end, 1.0, seed=5))
    null = torch.randn(8)
    torch.testing.assert_close(after_end.with_row(states, end, 1.0, null)[0, 4:], null.expand(5, -1))
    exact = after_end.with_exact_end(states, end, embeds)
    assert torch.equal(exact[1, 8], embeds[1])
    assert torch.equal(exact[1, :8], states[1, :8])
    assert after_end.find_end(states[:, :1], embeds).tolist() == [0, 0]
