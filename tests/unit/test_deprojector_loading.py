"""Files and configurations: the right family and revision, the published sizes, and errors that name the culprit."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from blockwork.deprojector import from_state_dict, load, save
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import LstmConfig, TransformerConfig
from blockwork.deprojector.files import build, write
from refhost import layout
from safetensors.torch import save_file

SMALL = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, projection_dim=16)


def made(**fields):
    torch.manual_seed(0)
    config = TransformerConfig(**{**SMALL, **fields})
    return build(config, "cpu").state_dict()


V1 = dict(has_null=False, embed_second=False)


def loaded(state, **fields):
    return from_state_dict(state, {**SMALL, **fields}).config


def test_v1_and_v2_have_no_null_row():
    config = loaded(made(**V1), model_type="clip_text_model")
    assert (config.has_null, config.embed_second, config.relative_to_null) == (False, False, False)


def test_v3_is_relative_to_null_though_its_config_does_not_say():
    state = {**made(), "expand.weight": torch.zeros(16, 16), "expand.bias": torch.zeros(16)}
    config = loaded(state, model_type="clip_text_model")
    assert (config.has_null, config.embed_second, config.relative_to_null) == (True, True, True)


def test_v4_is_an_ensemble_without_the_key():
    config = loaded(made(ensemble_size=4), model_type="clip_text_deprojector_model", ensemble_size=4)
    assert (config.ensemble_size, config.relative_to_null) == (4, True)


def test_v5_says_everything():
    said = dict(ensemble_size=4, apply_mlp_to_input=True, relative_to_null=True)
    config = loaded(made(**said), model_type="clip_text_deprojector_model", **said)
    assert config.apply_mlp_to_input


def test_head_means_what_it_says():
    assert not loaded(made(), relative_to_null=False).relative_to_null
    assert not loaded(made(), relative_to_prev=True, residual_wrt_prev=True).relative_to_null


def test_the_layout_of_17391c8_without_its_defaults_is_v1():
    first = from_state_dict(made(**V1), SMALL)
    state = {**made(), **{k: v for k, v in first.state_dict().items() if k != "position_ids"}}
    later = from_state_dict(state, {**SMALL, "diff": False, "embed_second": False})
    embeds = torch.randn(2, 16)
    assert torch.equal(first.deproject(embeds), later.deproject(embeds))


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        ({}, {"relative_to_nul": True}, "unknown field 'relative_to_nul'.*did you mean 'relative_to_null'"),
        ({}, {"ensemble_size": "4"}, "ensemble_size must be int, got '4'"),
        ({}, {"relative_to_null": 1}, "relative_to_null must be bool, got '1'"),
        ({}, {"ensemble_size": 0}, "ensemble_size must be positive, got 0"),
        ({}, {"hidden_act": "sine"}, "Unknown activation 'sine'"),
        ({}, {"num_attention_heads": 3}, "must be a multiple of num_attention_heads"),
        ({"sos_embed": None}, {}, "missing tensor 'sos_embed'"),
        ({"extra.weight": torch.zeros(1)}, {}, "unexpected tensor 'extra.weight'"),
        (
            {"final_layer_norm.bias": torch.zeros(17)},
            {},
            r"final_layer_norm.bias: config.json expects \(16,\).*\(17,\)",
        ),
        ({}, {"model_type": "clip_text_deprojector_vt_model"}, "belong to different models"),
        ({}, {"model_type": "llama"}, "unknown model_type 'llama'"),
        ({}, {"apply_mlp_to_input": True}, "missing tensor 'mlp_to_input.fc1.bias' and 3 more"),
        ({}, {"residual_wrt_hidden": True}, "residual_wrt_hidden needs relative_to_null"),
        ({"null_embed": None}, {"relative_to_null": True}, "the weights have no null_embed"),
    ],
)
def test_what_does_not_fit_is_named(change, fields, message):
    state = {**made(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(DeprojectorError, match=message):
        from_state_dict(state, {**SMALL, **fields}).deproject(torch.zeros(1, 16))


def test_foreign_weights():
    with pytest.raises(DeprojectorError, match="not weights of a deprojector"):
        from_state_dict({"model.diffusion_model.weight": torch.zeros(1)}, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(), "LSTM model 1 needs lstm_hidden_size"),
        (dict(use_model3=True, lstm_hidden_size=24), "Set x_residual to false"),
        (dict(use_model3=True, vicinity_mode=True), "vicinity_mode needs lstm_hidden_size"),
        (
            dict(use_model3=True, use_mlp=True, additional_mlp=True, mlp_intermediate_dim=8),
            "exclude each other",
        ),
    ],
)
def test_lstm_flags_that_cannot_work(fields, message):
    with pytest.raises(DeprojectorError, match=message):
        LstmConfig(**SMALL, **fields)


def _published(folder: Path, state, fields, pickled=False):
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({**fields, "transformers_version": "4.30.2", "vocab_size": 49408})
    )
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("pickled", [False, True])
def test_a_published_folder(tmp_path, pickled):
    folder = _published(tmp_path / "v3", made(), {**SMALL, "model_type": "clip_text_model"}, pickled)
    module = load(folder)
    assert module.config.relative_to_null
    assert not module.training
    weights = next(path for path in folder.iterdir() if path.suffix != ".json")
    assert load(weights).config == module.config


def test_a_pickle_with_code_is_refused(tmp_path):
    folder = _published(tmp_path / "bad", {**made(), "projection.weight": Path("code")}, SMALL, pickled=True)
    with pytest.raises(DeprojectorError, match="could not be read as plain weights"):
        load(folder)


def test_missing_files(tmp_path):
    with pytest.raises(DeprojectorError, match="There is no deprojector file or folder 'nowhere'"):
        load(tmp_path / "nowhere")
    with pytest.raises(DeprojectorError, match=r"holds 0 .safetensors files"):
        load(tmp_path)
    save_file(made(), tmp_path / "alone.safetensors")
    with pytest.raises(DeprojectorError, match=r"There is no config.json beside alone.safetensors"):
        load(tmp_path / "alone.safetensors")
    (tmp_path / "alone.json").write_text("{")
    with pytest.raises(DeprojectorError, match="not valid JSON"):
        load(tmp_path)


def test_saving_never_overwrites(tmp_path):
    module = from_state_dict(made(), SMALL)
    path = save(module, tmp_path / "mine")
    assert path.name == "mine.safetensors"
    assert [other.name for other in tmp_path.iterdir()] == ["mine.safetensors"]
    with pytest.raises(DeprojectorError, match="already exists"):
        save(module, tmp_path / "mine.safetensors")


def test_the_given_weights_are_copied():
    state = made()
    module = from_state_dict(state, SMALL)
    state["sos_embed"].fill_(7)
    assert not (module.sos_embed == 7).any()


WIDE = dict(x_residual=False, h0_residual=True, states_proj=True)


@pytest.mark.parametrize(
    ("config", "mebibytes"),
    [
        (TransformerConfig(**V1), 29.5),
        (TransformerConfig(ensemble_size=4, apply_mlp_to_input=True), 183),
        *[(LstmConfig(use_model3=True, num_layers=n), size) for n, size in ((1, 24.81), (2, 47.35), (3, 69.90), (4, 92.45))],
        *[(LstmConfig(use_model3=True, num_layers=n, lstm_hidden_size=768, **WIDE), size) for n, size in ((1, 29.31), (2, 56.36), (3, 83.42))],
        *[(LstmConfig(use_model3=True, num_layers=n, lstm_hidden_size=960, **WIDE), size) for n, size in ((1, 37.76), (2, 73.26), (3, 108.8))],
        *[(LstmConfig(use_model3=True, num_layers=n, lstm_hidden_size=1152, **WIDE), size) for n, size in ((1, 47.33), (2, 92.40))],
        (LstmConfig(use_model3=True, num_layers=1, use_mlp=True), 29.31),
        (LstmConfig(use_model3=True, num_layers=1, additional_mlp=True, mlp_intermediate_dim=1536), 33.81),
        (LstmConfig(use_model3=True, num_layers=1, additional_mlp=True, mlp_intermediate_dim=3072), 42.82),
        *[(LstmConfig(use_model3=True, num_layers=1, vicinity_mode=True, x_residual=False, lstm_hidden_size=h), size) for h, size in ((768, 36.06), (960, 46.19), (1344, 69.83))],
        (LstmConfig(use_model3=True, num_layers=1, lstm_hidden_size=768, x_residual=False, h0_residual=True), 27.06),
        (LstmConfig(use_model3=True, num_layers=1, lstm_hidden_size=1152, x_residual=False, h0_residual=True), 45.08),
    ],
)  # fmt: skip
def test_published_sizes(config, mebibytes):
    """The file sizes in the author's notes, in MiB of float32 weights."""
    tensors = build(config).state_dict().values()
    size = sum(4 * tensor.numel() for tensor in tensors if tensor.is_floating_point()) / 2**20
    assert abs(size - mebibytes) < (0.006 if mebibytes < 100 else 0.5) or f"{size:.1f}" == f"{mebibytes:.1f}"


def test_a_config_survives_json():
    config = TransformerConfig(**SMALL, relative_to_null=True)
    fields = json.loads(json.dumps(config.as_json()))
    assert {field.name for field in dataclasses.fields(config)} | {"model_type"} == set(fields)


def test_the_package_is_quick_to_import_and_needs_no_transformers():
    code = (
        "import sys, time, torch, safetensors.torch\n"
        f"sys.path.insert(0, {str(layout.ROOT / 'tools')!r})\n"
        "sys.modules['transformers'] = sys.modules['comfy'] = None\n"
        "from refhost.pack import load_pack\n"
        "load_pack()\n"
        "start = time.process_time()\n"
        "import blockwork.deprojector\n"
        "print(time.process_time() - start)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 0.5


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append([one.suffix for one in tmp_path.iterdir()]) or sync(number)
    )
    write({"a": torch.zeros(2)}, tmp_path / "a.safetensors", {})
    assert synced == [[".tmp"]] and [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]
