"""Deprojection on a real ComfyUI: conditioning in, conditioning out, CLIP with an unusable text_projection."""

import comfy.model_management
import pytest
import torch
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import LstmConfig, TransformerConfig
from blockwork.deprojector.host import texts
from blockwork.nodes import deprojector as nodes
from blockwork.tests.support.deprojector_kit import deprojector, encoded, node, sd1_clip
from comfy.model_management import InterruptProcessingException


@pytest.fixture(scope="module")
def clip():
    return sd1_clip()


@pytest.fixture(scope="module")
def loaded():
    return deprojector(LstmConfig(use_model3=True, num_layers=1))


@pytest.fixture(scope="module")
def transformer():
    return deprojector(TransformerConfig(relative_to_null=True), "transformer")


def test_everything_but_the_hidden_states_is_kept(clip, loaded):
    cond, options = encoded(clip, "a cat")[0]
    extras = {
        "area": (8, 8, 0, 0),
        "strength": 0.7,
        "mask": torch.ones(1, 8, 8),
        "hooks": object(),
        "start_percent": 0.2,
    }
    positive = [[cond, {**options, **extras}], *encoded(clip, "a dog")]
    before = [(tensor.clone(), dict(kept)) for tensor, kept in positive]
    (result, negative) = node(nodes.DeprojectConditioning, positive, loaded)
    assert negative == []
    for (tensor, kept), (given, given_kept), (old, old_kept) in zip(result, positive, before, strict=True):
        assert tensor.shape == (1, 77, 768)
        assert kept is not given_kept and kept == given_kept
        assert torch.equal(given, old) and given_kept == old_kept, "the input was changed"
    expected = loaded.module.deproject(torch.cat([kept["pooled_output"] for _, kept in positive]))
    torch.testing.assert_close(torch.cat([tensor for tensor, _ in result]), expected)


def test_pooled_is_the_end_row_and_never_the_projection(clip):
    states, pooled = texts.encode(texts.text_encoder(clip), "a cat")
    assert pooled.isfinite().all()
    assert torch.equal(states[0, 3], pooled[0])  # start, "a", "cat", end
    assert clip.cond_stage_model.clip_l.transformer.text_projection.weight.isnan().all()


def test_clip_skip_changes_nothing(clip, loaded):
    skipped = clip.clone()
    skipped.clip_layer(-2)
    plain, other = encoded(clip, "a cat"), encoded(skipped, "a cat")
    assert not torch.equal(plain[0][0], other[0][0])
    result = [node(nodes.DeprojectConditioning, entry, loaded)[0][0][0] for entry in (plain, other)]
    assert torch.equal(*result)
    text = [node(nodes.EncodeAndMerge, c, loaded, "a cat, dog:0.5")[0][0][0] for c in (clip, skipped)]
    assert torch.equal(*text)
    assert skipped.layer_idx == -2


def test_negatives_stay_unless_asked_for(clip, loaded):
    positive, negative = encoded(clip, "a cat"), encoded(clip, "bad")
    out = node(nodes.DeprojectConditioning, positive, loaded, negative)
    assert out[1] is negative and out[0] is not positive
    out = node(
        nodes.DeprojectConditioning,
        positive,
        loaded,
        negative,
        deproject_positive=False,
        deproject_negative=True,
    )
    assert out[0] is positive
    assert not torch.equal(out[1][0][0], negative[0][0])


def test_all_entries_run_as_one_batch(clip, loaded, monkeypatch):
    seen = []
    whole = type(loaded.module).deproject
    monkeypatch.setattr(
        type(loaded.module),
        "deproject",
        lambda self, embeds, **rest: seen.append(len(embeds)) or whole(self, embeds, **rest),
    )
    both = encoded(clip, "a cat") + encoded(clip, "a dog")
    node(nodes.DeprojectConditioning, both, loaded, encoded(clip, "bad"), deproject_negative=True)
    assert seen == [3]


@pytest.mark.parametrize(
    ("width", "pooled", "name"),
    [(2048, 1280, "SDXL"), (1024, 1024, "Stable Diffusion 2"), (4096, 768, "Flux"), (4096, 2048, "Stable Diffusion 3"), (640, 640, "another model family")],
)  # fmt: skip
def test_other_families_are_refused_by_name(loaded, width, pooled, name):
    entry = [[torch.zeros(1, 77, width), {"pooled_output": torch.zeros(1, pooled)}]]
    with pytest.raises(DeprojectorError, match=f"{name}.*Use the CLIP of an SD1 checkpoint"):
        node(nodes.DeprojectConditioning, entry, loaded)


def test_without_pooled_embedding(loaded):
    with pytest.raises(DeprojectorError, match="has no pooled embedding"):
        node(nodes.DeprojectConditioning, [[torch.zeros(1, 77, 768), {}]], loaded)
    assert node(nodes.DeprojectConditioning, [], loaded) == ([], [])


def test_another_clip_is_refused(loaded):
    class Fake:
        def tokenize(self, _):
            return {"l": [], "g": []}

    with pytest.raises(
        DeprojectorError, match=r"an SDXL CLIP\. Deprojectors need the CLIP of a Stable Diffusion 1"
    ):
        node(nodes.EncodeAndMerge, Fake(), loaded, "cat")


def test_weights_in_the_text(clip, loaded):
    _, embedding = node(nodes.EncodeAndMerge, clip, loaded, "cat:1.2, maid:-0.3")
    encoder = texts.text_encoder(clip)
    cat, maid, null = (texts.encode(encoder, text)[1] for text in ("cat", "maid", ""))
    torch.testing.assert_close(embedding.vector, null + 1.2 * (cat - null) - 0.3 * (maid - null))
    conditioning, empty = node(nodes.EncodeAndMerge, clip, loaded, " , ")
    assert torch.equal(empty.vector, null)
    assert conditioning[0][0].isfinite().all()
    lines = node(nodes.EncodeAndMerge, clip, loaded, "cat:1.2\nmaid:-0.3", separator="line")[1]
    assert torch.equal(lines.vector, embedding.vector)
    single = node(nodes.EncodeAndMerge, clip, loaded, "cat")[0]
    torch.testing.assert_close(single[0][1]["pooled_output"], cat)
    torch.testing.assert_close(
        single[0][0],
        node(nodes.DeprojectConditioning, encoded(clip, "cat"), loaded)[0][0][0],
        rtol=0,
        atol=1e-3,  # (e - null) + null is e but for rounding, which the recursion amplifies
    )


def vision(width, seed=0):
    torch.manual_seed(seed)
    return {"image_embeds": torch.randn(2, width)}


def test_images(clip, loaded):
    image, base = vision(768), vision(768, 1)
    null = texts.encode(texts.text_encoder(clip), "")[1]
    (embedding,) = node(nodes.ImageToEmbedding, image, loaded, clip, base)
    change = image["image_embeds"] - base["image_embeds"].mean(0)
    torch.testing.assert_close(
        embedding.vector, change @ loaded.module.deprojection.T + null, rtol=1e-4, atol=1e-4
    )
    (plain,) = node(nodes.ImageToEmbedding, image, loaded, clip)
    expected = loaded.module.deproject(image["image_embeds"], from_projected=True)
    result = node(nodes.DeprojectEmbedding, plain, loaded)[0]
    torch.testing.assert_close(result[0][0], expected)
    (matched,) = node(nodes.ImageToEmbedding, image, loaded, clip, norm="text")
    lengths = torch.norm(matched.vector - null, dim=1)
    torch.testing.assert_close(lengths[0], lengths[1])


@pytest.mark.parametrize(
    ("width", "name"), [(1024, "ViT-H/14"), (1280, "ViT-bigG/14"), (512, r"\(512 numbers\)")]
)
def test_other_image_encoders_are_refused_by_name(clip, loaded, width, name):
    with pytest.raises(DeprojectorError, match=f"{name}.*needs CLIP ViT-L/14"):
        node(nodes.ImageToEmbedding, vision(width), loaded, clip)


def test_mixing(clip, loaded):
    cat, dog = (node(nodes.EncodeAndMerge, clip, loaded, text)[1] for text in ("cat", "dog"))
    halfway = node(nodes.MixEmbeddings, cat, dog, "lerp", 0.5)[0]
    torch.testing.assert_close(halfway.vector, (cat.vector + dog.vector) / 2)
    summed = node(nodes.MixEmbeddings, cat, dog, "add", 1.0)[0]
    torch.testing.assert_close(summed.vector, node(nodes.EncodeAndMerge, clip, loaded, "cat, dog")[1].vector)
    arc = node(nodes.MixEmbeddings, cat, dog, "slerp", 1.0)[0]
    torch.testing.assert_close(arc.vector, dog.vector)
    many = texts.Embedding(cat.vector.repeat(3, 1), cat.null)
    assert node(nodes.MixEmbeddings, many, dog, "slerp", 0.3)[0].vector.shape == (3, 768)
    with pytest.raises(DeprojectorError, match="batches do not match: 3 and 2"):
        node(nodes.MixEmbeddings, many, texts.Embedding(cat.vector.repeat(2, 1), cat.null), "add", 1.0)


def test_rows_and_what_follows_the_end(clip, transformer):
    entry = encoded(clip, "a cat")
    pooled = entry[0][1]["pooled_output"]
    plain = node(nodes.DeprojectConditioning, entry, transformer)[0][0][0]
    assert torch.equal(node(nodes.DeprojectConditioning, entry, transformer, rows=9)[0][0][0], plain[:, :9])
    exact = node(nodes.DeprojectConditioning, entry, transformer, exact_end=True, end_row=3)[0][0][0]
    assert torch.equal(exact[:, 3], pooled)
    masked = node(nodes.DeprojectConditioning, entry, transformer, mask_after_end=1.0, end_row=3)[0][0][0]
    assert torch.equal(masked[:, :4], plain[:, :4]) and not masked[:, 4:].any()
    null = node(nodes.DeprojectConditioning, entry, transformer, null_after_end=1.0, end_row=3)[0][0][0]
    torch.testing.assert_close(null[0, 4:], transformer.module.null_embed.expand(73, -1))
    noise = [
        node(nodes.DeprojectConditioning, entry, transformer, noise_after_end=1.0, end_row=3, seed=seed)[0][
            0
        ][0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])


def test_constant_rows_of_the_clip(clip, loaded, transformer):
    entry = encoded(clip, "a cat")
    states, pooled = texts.encode(texts.text_encoder(clip), "")
    file = node(nodes.DeprojectConditioning, entry, transformer)[0][0][0]
    own = node(nodes.DeprojectConditioning, entry, transformer, constant_rows="clip", clip=clip)[0][0][0]
    assert torch.equal(own[0, 0], states[0, 0]) and not torch.equal(own[0, 1:], file[0, 1:])
    assert torch.equal(node(nodes.DeprojectConditioning, entry, transformer)[0][0][0], file)
    with pytest.raises(DeprojectorError, match="no CLIP is connected"):
        node(nodes.DeprojectConditioning, entry, transformer, constant_rows="clip")
    with pytest.raises(DeprojectorError, match="Set constant_rows to clip"):
        node(nodes.DeprojectConditioning, entry, loaded, null_after_end=0.5)
    mixed = node(
        nodes.DeprojectConditioning,
        entry,
        loaded,
        null_after_end=1.0,
        end_row=2,
        constant_rows="clip",
        clip=clip,
    )
    torch.testing.assert_close(mixed[0][0][0][0, 3], pooled[0])


def test_it_can_be_interrupted(clip, loaded):
    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(InterruptProcessingException):
            node(nodes.DeprojectConditioning, encoded(clip, "a cat"), loaded)
    finally:
        comfy.model_management.interrupt_current_processing(False)


def test_text_that_the_embedding_does_not_hold_is_reported(clip, loaded, caplog):
    """Conditioning Concat and long prompts: only the first 77 rows are in the pooled embedding."""
    cond, options = encoded(clip, "a cat")[0]
    node(nodes.DeprojectConditioning, [[cond, options]], loaded, rows=2)
    assert not caplog.messages
    joined = torch.cat([cond, encoded(clip, "a dog")[0][0]], dim=1)
    for entry in ([[joined, options]], encoded(clip, "long " * 100)):
        caplog.clear()
        node(nodes.DeprojectConditioning, entry, loaded, rows=2)
        assert "Encode and Merge Texts" in caplog.text and "rest of the text is lost" in caplog.text


def test_pooled_embeddings_that_are_not_finite_are_refused(clip, loaded):
    cond, options = encoded(clip, "a cat")[0]
    broken = {**options, "pooled_output": torch.full((1, 768), float("nan"))}
    with pytest.raises(DeprojectorError, match="pooled embedding of the conditioning holds NaN"):
        node(nodes.DeprojectConditioning, [[cond, broken]], loaded)
    with pytest.raises(DeprojectorError, match="holds NaN or infinite values"):
        node(nodes.TextToEmbedding, clip, "cat:1e39")


def test_two_nodes_for_texts(clip, loaded, caplog):
    """Text to Embedding and Deproject Embedding are Encode and Merge Texts; the log shows what was read."""
    text = "cat:1.2, (maid, standing:-0.3), clock at 12:30"
    with caplog.at_level("INFO"):
        (embedding,) = node(nodes.TextToEmbedding, clip, text, norm="consistent")
    assert "'cat' x 1.2; 'maid, standing' x -0.3; 'clock at 12:30' x 1" in caplog.text
    one = node(nodes.EncodeAndMerge, clip, loaded, text, norm="consistent")
    assert torch.equal(one[1].vector, embedding.vector)
    assert torch.equal(one[0][0][0], node(nodes.DeprojectEmbedding, embedding, loaded)[0][0][0])
