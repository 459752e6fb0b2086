"""Deprojectors as models on a real ComfyUI: files, joining, report, precision, memory."""

import copy
import json

import comfy.model_management
import folder_paths
import pytest
import torch
import torch.nn.functional as F
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import LstmConfig, TransformerConfig
from blockwork.deprojector.host import models as host
from blockwork.deprojector.host import report, texts
from blockwork.deprojector.host.encoder import text_encoder
from blockwork.nodes import deprojector as nodes
from blockwork.nodes import deprojector_models as models
from blockwork.tests.support.deprojector_kit import deprojector, encoded, node, sd1_clip
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def clip():
    return sd1_clip()


@pytest.fixture(scope="module")
def loaded():
    return deprojector(LstmConfig(use_model3=True, num_layers=1))


@pytest.fixture(scope="module")
def transformer():
    return deprojector(TransformerConfig(relative_to_null=True), "transformer")


def test_report(clip, loaded, transformer):
    plot, figures = node(models.DeprojectorReport, transformer, clip, "a cat")
    assert plot.shape[0] == 1 and plot.shape[-1] == 3 and 0 <= plot.min() < plot.max() <= 1
    lines = figures.splitlines()
    assert [line.split(":")[0] for line in lines] == ["free-running", "from true rows", "empty text's rows"]
    states, pooled = texts.encode(texts.text_encoder(clip), "a cat")
    free = F.cosine_similarity(host.run(transformer, pooled, host.Shaping()), states, dim=-1)[0, 1:4].mean()
    assert f"rows 1-3) {free:.4f}" in lines[0]
    assert report.report(loaded, clip, "")[1].startswith("free-running: words and end (rows 1-1)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "deprojector", ([str(tmp_path)], host.SUFFIXES))
    folder_paths.filename_list_cache.pop("deprojector", None)
    return tmp_path


def test_files(folder, loaded, clip):
    published = folder / "published"
    published.mkdir()
    config = loaded.module.config.as_json()
    (published / "config.json").write_text(json.dumps(config))
    torch.save(loaded.module.state_dict(), published / "pytorch_model.bin")
    assert host.names() == ["published"]
    (again,) = node(models.LoadDeprojector, "published")
    (path,) = node(models.SaveDeprojector, again, "converted/mine", "float32")
    assert path.endswith("mine_00001.safetensors")
    (second,) = node(models.SaveDeprojector, again, "converted/mine", "bfloat16")
    assert second.endswith("mine_00002.safetensors")
    folder_paths.filename_list_cache.pop("deprojector", None)
    assert host.names() == [
        "converted/mine_00001.safetensors",
        "converted/mine_00002.safetensors",
        "published",
    ]
    entry = encoded(clip, "a cat")
    results = [
        node(nodes.DeprojectConditioning, entry, node(models.LoadDeprojector, name)[0])[0][0][0]
        for name in ("published", "converted/mine_00001.safetensors")
    ]
    assert torch.equal(*results)
    stamp = models.LoadDeprojector.fingerprint_inputs("published")
    (published / "config.json").write_text(json.dumps({**config, "vocab_size": 1}))
    assert models.LoadDeprojector.fingerprint_inputs("published") != stamp
    with pytest.raises(DeprojectorError, match=r"There is no deprojector '\.\./secret'"):
        node(models.LoadDeprojector, "../secret")


def test_half_precision_gives_float32_conditioning(folder, clip, transformer):
    node(models.SaveDeprojector, transformer, "t")
    (half,) = node(models.LoadDeprojector, "t_00001.safetensors", "bfloat16")
    states = node(nodes.DeprojectConditioning, encoded(clip, "a cat"), half)[0][0][0]
    assert states.dtype == torch.float32 and states.isfinite().all()


def test_joining(clip, loaded, transformer):
    other = deprojector(LstmConfig(use_model3=True, num_layers=1), "other", seed=1)
    entry = encoded(clip, "a cat")
    first, second = (node(nodes.DeprojectConditioning, entry, one)[0][0][0] for one in (loaded, other))
    (both,) = node(models.JoinDeprojectors, loaded, other, "ensemble")
    torch.testing.assert_close(
        node(nodes.DeprojectConditioning, entry, both)[0][0][0][:, 1:],
        (first + second)[:, 1:] / 2,
        rtol=1e-4,
        atol=1e-3,
    )
    (three,) = node(models.JoinDeprojectors, both, other, "ensemble")
    assert three.module.config.ensemble_size == 3
    (merged,) = node(models.JoinDeprojectors, loaded, other, "merge")
    assert merged.module.config.ensemble_size == 1
    (concat,) = node(models.JoinDeprojectors, loaded, transformer, "concat", 10)
    states = node(nodes.DeprojectConditioning, entry, concat)[0][0][0]
    assert states.shape[1] == 77
    torch.testing.assert_close(states[:, :10], first[:, :10], rtol=1e-4, atol=1e-4)
    with pytest.raises(DeprojectorError, match="only be concatenated"):
        node(models.JoinDeprojectors, concat, other, "merge")


def test_what_low_vram_leaves_behind_is_fetched(clip, monkeypatch):
    """Core may move layers and leave the buffers of the top module; ``meta`` stands for the other device."""
    loaded = deprojector(LstmConfig(use_model2=True), "split")
    monkeypatch.setattr(
        comfy.model_management, "load_models_gpu", lambda *_, **__: loaded.module.models.to("meta")
    )
    monkeypatch.setattr(loaded.patcher, "load_device", torch.device("meta"))
    host._onto_device(loaded)
    assert {tensor.device.type for tensor in loaded.module.state_dict().values()} == {"meta"}


def test_textual_inversions(clip, transformer, tmp_path):
    """A token may be a vector: the report finds the end row all the same, and the embedding reaches the result."""
    save_file({"emb_params": torch.randn(2, 768)}, tmp_path / "thing.safetensors")
    own = clip.clone()
    own.tokenizer = copy.copy(clip.tokenizer)
    own.tokenizer.clip_l = copy.copy(clip.tokenizer.clip_l)
    own.tokenizer.clip_l.embedding_directory = [str(tmp_path)]
    _, figures = node(models.DeprojectorReport, transformer, own, "a embedding:thing")
    assert "rows 1-4)" in figures  # "a", two vectors, end
    plain, inverted = (node(nodes.TextToEmbedding, one, "a embedding:thing")[0] for one in (clip, own))
    assert not torch.equal(plain.vector, inverted.vector)
    encode, _, _ = text_encoder(own)
    literal = encode(["a embedding:thing", "(cat:1.5)", "a \\(b\\)"])
    tokens = own.tokenizer.clip_l.tokenizer
    for text, end in zip(["a embedding:thing", "(cat:1.5)", "a \\(b\\)"], literal.end.tolist(), strict=True):
        assert end == len(tokens(text)["input_ids"]) - 1, "captions are literal"


def test_a_loader_without_files_says_where_to_get_them(folder):
    (option,) = models.LoadDeprojector.define_schema().inputs[0].options
    assert "nanashi161382/clip-text-deprojector" in option
    with pytest.raises(
        DeprojectorError, match=r"no deprojector files below .*huggingface.co.*Train Deprojector"
    ):
        node(models.LoadDeprojector, option)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_embeddings_mix_whatever_they_come_from(folder, clip, transformer, dtype):
    """Images go through the deprojector's matrix, texts through CLIP: both become float32 on one device."""
    node(models.SaveDeprojector, transformer, "t")
    (half,) = node(models.LoadDeprojector, "t_00001.safetensors", dtype)
    text = node(nodes.TextToEmbedding, clip, "a cat")[0]
    image = node(nodes.ImageToEmbedding, {"image_embeds": torch.randn(1, 768)}, half, clip)[0]
    assert {text.vector.dtype, image.vector.dtype, image.null.dtype} == {torch.float32}
    for method in ("lerp", "slerp", "add"):
        for pair in ((text, image), (image, text)):
            assert node(nodes.MixEmbeddings, *pair, method, 0.5)[0].vector.isfinite().all()
    states = node(nodes.DeprojectEmbedding, image, half)[0]
    assert states[0][0].dtype == torch.float32


def test_without_a_projection_images_are_refused(clip):
    bare = deprojector(LstmConfig(use_model2=True), "bare")
    bare.module.deprojection.zero_()
    with pytest.raises(DeprojectorError, match="no inverse projection"):
        node(nodes.ImageToEmbedding, {"image_embeds": torch.randn(1, 768)}, bare, clip)
