"""The training node on a real ComfyUI text encoder, under inference mode as nodes run."""

import comfy.model_management
import folder_paths
import pytest
import torch
from blockwork.deprojector import files
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import LstmConfig
from blockwork.deprojector.host import conditioning, encoder, models, texts
from blockwork.nodes.deprojector_models import TrainDeprojector
from blockwork.tests.support.deprojector_kit import sd1_clip
from comfy.model_management import InterruptProcessingException

WIDTH = 128  # the server tier trains for a CLIP-L


@pytest.fixture(scope="module")
def clip():
    return sd1_clip(hidden_size=WIDTH, intermediate_size=512, num_attention_heads=4)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """ComfyUI's input and output folders, with a caption file."""
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    (tmp_path / "input").mkdir()
    captions = [
        f"a {colour} {being}"
        for colour in ("red", "blue", "old")
        for being in ["cat", "dog", "maid", "robot", "fox", "hat", "owl"]
    ]
    (tmp_path / "input" / "captions.txt").write_text("\n".join([*captions, "long " * 100]))
    return tmp_path


def trained(clip, **changes):
    options = dict(
        captions="captions.txt", run="try", family="transformer", schedule="scheduled", steps=2, batch=4,
        learning_rate=1e-3, test_captions=2, evaluate_every=1, seed=1,
    )  # fmt: skip
    with torch.inference_mode():
        return TrainDeprojector.execute(clip, **{**options, **changes}).args


def test_the_encoder_is_the_one_of_comfyui(clip):
    encode, weights, heads = encoder.text_encoder(clip)
    given = ["a cat", "", "long " * 100]
    encoded = encode(given)
    assert encoded.cut == [False, False, True] and heads == 4
    assert encoded.end.tolist() == [3, 1, 76]
    for number, text in enumerate(given):
        states, pooled = texts.encode(texts.text_encoder(clip), text)
        torch.testing.assert_close(encoded.states[number], states[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoded.pooled[number], pooled[0], rtol=1e-5, atol=1e-5)
    assert not any("text_projection" in key for key in weights)


def test_training_in_the_graph(clip, folders):
    source = models.managed(
        files.build(LstmConfig(use_model2=True, hidden_size=WIDTH, projection_dim=WIDTH), "cpu"), "source"
    )
    with torch.no_grad():
        source.module.deprojection.normal_()
    deprojector, plot, figures = trained(clip, projection_from=source)
    assert plot.shape[0] == 1 and plot.isfinite().all()
    assert "2 steps" in figures and "free-running" in figures
    module = deprojector.module
    assert not any(parameter.requires_grad or parameter.is_inference() for parameter in module.parameters())
    assert torch.equal(module.deprojection, source.module.deprojection)
    states, pooled = texts.encode(texts.text_encoder(clip), "")
    assert torch.equal(module.sos_embed, states[0, 0])
    torch.testing.assert_close(module.null_embed, pooled[0])
    last = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[1]
    moved = (module.models[0].encoder_layer.mlp.fc1.weight - last.mlp.fc1.weight).abs().max()
    assert 0 < moved < 0.02
    cond = clip.encode_from_tokens_scheduled(clip.tokenize("a red cat"))
    assert conditioning.conditionings(deprojector, [cond], models.Shaping())[0][0][0].isfinite().all()


def test_hidden_states_are_kept_and_the_run_goes_on(clip, folders, monkeypatch):
    trained(clip)
    run = folders / "output" / "deprojector_training" / "try"
    kept = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert set(kept) == {
        "train.safetensors",
        "test.safetensors",
        "encoder.safetensors",
        "checkpoint.safetensors",
    }
    _, _, figures = trained(clip, evaluate_every=2)
    assert "2 steps" in figures
    for name in ("train.safetensors", "test.safetensors"):
        assert (run / name).stat().st_mtime_ns == kept[name]
    with pytest.raises(DeprojectorError, match="belongs to a run with another recipe"):
        trained(clip, learning_rate=0.1)


def test_it_can_be_interrupted(clip, folders):
    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(InterruptProcessingException):
            trained(clip, run="stopped")
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert "2 steps" in trained(clip, run="stopped")[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": "nowhere.txt"}, "no caption file 'nowhere.txt' in ComfyUI's input folder"),
        ({"captions": "../secret.txt"}, "no caption file"),
        ({"run": "../elsewhere"}, "not a valid run name"),
        ({"run": " "}, "not a valid run name"),
        ({"test_captions": 20}, "20 test captions of 22 do not leave enough"),
        ({"family": "perceptron"}, "Unknown family 'perceptron'"),
    ],
)
def test_bad_input_is_explained(clip, folders, changes, message):
    with pytest.raises(DeprojectorError, match=message):
        trained(clip, **changes)


def test_a_run_can_be_extended_and_compared_along_the_way(clip, folders, monkeypatch):
    """More steps extend a finished run; copies of the model are stored where Load Deprojector lists them."""
    stored = folders / "models"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "deprojector", ([str(stored)], models.SUFFIXES))
    folder_paths.filename_list_cache.pop("deprojector", None)
    trained(clip, snapshot_every=1)
    _, _, figures = trained(clip, steps=4, snapshot_every=1)
    assert "4 steps" in figures
    assert models.names() == [f"try/step_{step:06}.safetensors" for step in (1, 2, 3, 4)]
    assert models.load("try/step_000001.safetensors").module.config.dim == WIDTH


def test_prepared_examples_are_never_overwritten(clip, folders):
    trained(clip)
    run = folders / "output" / "deprojector_training" / "try"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    stamp = TrainDeprojector.fingerprint_inputs(captions="captions.txt")
    captions = folders / "input" / "captions.txt"
    captions.write_text(captions.read_text() + "\na new caption")
    assert TrainDeprojector.fingerprint_inputs(captions="captions.txt") != stamp
    with pytest.raises(DeprojectorError, match="prepared from other captions"):
        trained(clip)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
