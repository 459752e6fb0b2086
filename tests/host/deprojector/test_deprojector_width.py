"""Nothing hangs on CLIP-L's width: a text encoder of 128 with its own deprojectors, and what does not belong together."""

import folder_paths
import pytest
import torch
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import LstmConfig
from blockwork.deprojector.host import models as host
from blockwork.deprojector.host import texts
from blockwork.deprojector.host.encoder import load_clip
from blockwork.deprojector.host.plots import line_plot
from blockwork.deprojector.train.start import PRESETS, sized
from blockwork.nodes import deprojector as nodes
from blockwork.nodes import deprojector_models as models
from blockwork.tests.support.deprojector_kit import deprojector, encoded, node, sd1_clip
from safetensors.torch import save_file

WIDTH, HEADS = 128, 4
SIZES = dict(hidden_size=WIDTH, intermediate_size=256, num_attention_heads=HEADS)


def made(family, seed=0):
    return deprojector(
        sized(family, dict(**SIZES, projection_dim=WIDTH, max_position_embeddings=77)),
        f"narrow {family}",
        seed,
    )


@pytest.fixture(scope="module")
def clip():
    return sd1_clip(**SIZES)


@pytest.fixture(scope="module")
def clip_l():
    return sd1_clip()


@pytest.fixture(scope="module")
def narrow():
    return made("LSTM 3, initial, 1 layer")


@pytest.fixture(scope="module")
def full():
    return deprojector(LstmConfig(use_model3=True, num_layers=1), "full")


@pytest.mark.parametrize("family", PRESETS)
def test_every_family_deprojects(clip, family):
    loaded = made(family)
    entry = encoded(clip, "a red square")
    (result, negative) = node(nodes.DeprojectConditioning, entry, loaded, entry, deproject_negative=True)
    expected = loaded.module.deproject(entry[0][1]["pooled_output"].repeat(2, 1))  # both run as one batch
    torch.testing.assert_close(torch.cat([result[0][0], negative[0][0]]), expected)
    assert expected.shape == (2, 77, WIDTH)


def test_texts_and_their_constant_rows(clip, narrow):
    conditioning, embedding = node(nodes.EncodeAndMerge, clip, narrow, "cat:1.2, maid:-0.3")
    encoder = texts.text_encoder(clip)
    cat, maid, null = (texts.encode(encoder, text)[1] for text in ("cat", "maid", ""))
    torch.testing.assert_close(embedding.vector, null + 1.2 * (cat - null) - 0.3 * (maid - null))
    assert conditioning[0][0].shape == (1, 77, WIDTH)
    own = node(nodes.EncodeAndMerge, clip, narrow, "cat", constant_rows="clip")[0][0][0]
    assert torch.equal(own[0, 0], texts.constant_rows(clip)[0])
    mixed = node(nodes.MixEmbeddings, embedding, embedding, "slerp", 0.5)[0]
    assert node(nodes.DeprojectEmbedding, mixed, narrow)[0][0][0].shape == (1, 77, WIDTH)


def test_images(clip, narrow):
    torch.manual_seed(1)
    image, base = {"image_embeds": torch.randn(2, WIDTH)}, {"image_embeds": torch.randn(1, WIDTH)}
    (embedding,) = node(nodes.ImageToEmbedding, image, narrow, clip, base)
    null = texts.constant_rows(clip)[1]
    change = (image["image_embeds"] - base["image_embeds"]) @ narrow.module.deprojection.T
    torch.testing.assert_close(embedding.vector, change + null, rtol=1e-4, atol=1e-4)


def test_report_and_joining(clip, narrow, monkeypatch, tmp_path):
    figures = node(models.DeprojectorReport, narrow, clip, "a red square")[1]
    assert figures.startswith("free-running: words and end (rows 1-4)")
    second = made("LSTM 3, initial, 1 layer", seed=1)
    entry = encoded(clip, "a red square")
    for how in ("ensemble", "merge", "concat"):
        (both,) = node(models.JoinDeprojectors, narrow, second, how)
        assert node(nodes.DeprojectConditioning, entry, both)[0][0][0].shape == (1, 77, WIDTH)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "deprojector", ([str(tmp_path)], host.SUFFIXES))
    node(models.SaveDeprojector, narrow, "narrow")
    (again,) = node(models.LoadDeprojector, "narrow_00001.safetensors")
    results = [node(nodes.DeprojectConditioning, entry, one)[0][0][0] for one in (narrow, again)]
    assert torch.equal(*results)


def test_training(clip, narrow, full, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    (tmp_path / "captions.txt").write_text("\n".join(f"shape {n} in red" for n in range(20)))
    arguments = (clip, "captions.txt", "run", "LSTM 3, wide 1.5x, 1 layer", "scheduled", 2, 4, 1e-3, 2)
    with pytest.raises(DeprojectorError, match=r"is \(768, 768\), this text encoder needs \(128, 128\)"):
        node(models.TrainDeprojector, *arguments, projection_from=full)
    trained, _, figures = node(models.TrainDeprojector, *arguments, projection_from=narrow)
    assert "2 steps" in figures and trained.module.config.dim == WIDTH
    assert trained.module.config.num_attention_heads == HEADS
    assert torch.equal(trained.module.deprojection, narrow.module.deprojection)
    assert node(nodes.DeprojectConditioning, encoded(clip, "red"), trained)[0][0][0].shape == (1, 77, WIDTH)


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (nodes.EncodeAndMerge, ("cat",)),
        (nodes.ImageToEmbedding, ()),
        (models.DeprojectorReport, ("cat",)),
        (nodes.DeprojectEmbedding, ()),
        (nodes.DeprojectConditioning, ()),
    ],
)
def test_widths_that_differ_are_both_named(clip, clip_l, narrow, full, kind, rest):
    def call(encoder, loaded):
        width = loaded.module.config.dim
        first = {
            nodes.EncodeAndMerge: (encoder, loaded),
            nodes.ImageToEmbedding: ({"image_embeds": torch.zeros(1, width)}, loaded, encoder),
            models.DeprojectorReport: (loaded, encoder),
            nodes.DeprojectEmbedding: (texts.merge_texts(encoder, "cat", "comma", "sum", "off"), loaded),
            nodes.DeprojectConditioning: (encoded(encoder, "cat"), loaded),
        }[kind]
        return node(kind, *first, *rest)

    with pytest.raises(DeprojectorError, match=r"\b128\b.*\b768\b"):
        call(clip, full)
    with pytest.raises(DeprojectorError, match=r"\b768\b.*\b128\b"):
        call(clip_l, narrow)


def test_rows_of_a_clip_of_another_width(clip, clip_l, narrow):
    entry = encoded(clip, "cat")
    with pytest.raises(DeprojectorError, match=r"has 768 numbers.*width 128"):
        node(nodes.DeprojectConditioning, entry, narrow, constant_rows="clip", clip=clip_l)


def test_embeddings_of_two_text_encoders(clip, clip_l):
    two = (texts.merge_texts(one, "cat", "comma", "sum", "off") for one in (clip, clip_l))
    with pytest.raises(DeprojectorError, match="widths 128 and 768"):
        node(nodes.MixEmbeddings, *two, "add", 1.0)


@pytest.mark.parametrize(("width", "name"), [(768, "ViT-L/14 "), (1024, "ViT-H/14 "), (512, "")])
def test_image_encoders_of_another_width(clip, narrow, width, name):
    image = {"image_embeds": torch.zeros(1, width)}
    with pytest.raises(DeprojectorError, match=rf"encoded by {name}\({width} numbers\).*\(128\)"):
        node(nodes.ImageToEmbedding, image, narrow, clip)


@pytest.mark.parametrize(
    ("width", "pooled", "name"),
    [(2048, 1280, "SDXL"), (1024, 1024, "Stable Diffusion 2"), (4096, 768, "Flux"), (4096, 2048, "Stable Diffusion 3"), (768, 768, "Stable Diffusion 1"), (128, 64, "another model family")],
)  # fmt: skip
def test_other_families_are_refused_by_name(narrow, width, pooled, name):
    entry = [[torch.zeros(1, 77, width), {"pooled_output": torch.zeros(1, pooled)}]]
    with pytest.raises(
        DeprojectorError, match=rf"is of {name} \(width {width}, pooled {pooled}\).*width 128"
    ):
        node(nodes.DeprojectConditioning, entry, narrow)


def _file(clip, path, prefix="", projection=True):
    state = clip.cond_stage_model.clip_l.transformer.state_dict()
    state["text_projection.weight"] = torch.eye(WIDTH) * 2
    if not projection:
        del state["text_projection.weight"]
    save_file({prefix + key: value for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "cond_stage_model.transformer.", "clip_l.transformer."])
def test_a_text_encoder_from_a_file(clip, tmp_path, prefix):
    path = _file(clip, tmp_path / "narrow.safetensors", prefix)
    again, projection = load_clip(path, HEADS)
    assert torch.equal(projection, torch.eye(WIDTH) * 2)
    expected, result = (encoded(one, "a red square")[0] for one in (clip, again))
    torch.testing.assert_close(result[0], expected[0], rtol=1e-3, atol=1e-3)  # half precision in between
    assert load_clip(_file(clip, tmp_path / "bare.safetensors", prefix, False), HEADS)[1] is None
    with pytest.raises(DeprojectorError, match=r"has width 128, not CLIP-L's 768.*--heads.*given: None"):
        load_clip(path)


@pytest.mark.parametrize(
    ("key", "width", "name"),
    [
        ("conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight", 768, "no text encoder"),
        ("cond_stage_model.model.positional_embedding", 1024, "Stable Diffusion 2's text encoder"),
        ("text_model.embeddings.position_embedding.weight", 1280, "SDXL's second text encoder"),
        ("vision_model.embeddings.position_embedding.weight", 1024, "no text encoder"),
    ],
)  # fmt: skip
def test_files_of_other_families(tmp_path, key, width, name):
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(77, width)}, path)
    with pytest.raises(DeprojectorError, match=f"other.safetensors holds {name}"):
        load_clip(path, 4)


def test_a_long_title_is_drawn_beside_the_axes_names_and_in_any_script():
    """The title, the name of the vertical axis and the legend have rows of their own."""
    series = {"free-running": [(0.0, 0.5), (76.0, 0.5)]}
    axes = ("row", "cosine to the true hidden state")
    bare = line_plot(series, "", ("", ""), (-1, 1))
    titled = line_plot(series, "\u8d64\u3044\u732b " * 40, ("", ""), (-1, 1)) != bare
    named = line_plot(series, "", axes, (-1, 1)) != bare
    assert titled.any() and named.any() and not (titled & named).any()
