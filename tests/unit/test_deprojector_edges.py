"""Other people's files, texts and captions: read right, or refused by name before anything expensive happens."""

import json
import time

import pytest
import torch
from blockwork.deprojector import from_state_dict, load
from blockwork.deprojector.algebra import merged
from blockwork.deprojector.errors import DeprojectorError
from blockwork.deprojector.families import FAMILIES, LstmConfig, TransformerConfig
from blockwork.deprojector.files import build
from blockwork.deprojector.train.examples import read_captions
from blockwork.deprojector.train.start import PRESETS, sized, started
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

SIZES = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, projection_dim=16)
LSTM = dict(**SIZES, use_model3=True, num_layers=1, model_type=LstmConfig.model_type)


def state_of(config):
    torch.manual_seed(0)
    return build(config, "cpu").state_dict()


def lstm():
    return state_of(LstmConfig(**{name: value for name, value in LSTM.items() if name != "model_type"}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 20000}, "num_layers is 20000, but the weights have only 18 tensors"),
        ({"ensemble_size": 10**6}, "ensemble_size must be 0 to 65536"),
        ({"hidden_size": 10**18}, "hidden_size must be 0 to 65536"),
        ({"max_position_embeddings": 60000}, "rows must be at most 1024"),
        ({"num_attention_heads": 0}, "num_attention_heads must be positive, got 0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be 0 to 1, got nan"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps must be 0 to 1"),
    ],
)
def test_sizes_that_no_file_has_are_refused_at_once(fields, message):
    state, start = lstm(), time.process_time()
    with pytest.raises(DeprojectorError, match=message):
        from_state_dict(state, {**LSTM, **fields})
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sos_embed": torch.ones(16, dtype=torch.int32)}, "sos_embed is torch.int32. Expected float16"),
        ({"sos_embed": torch.ones(16).to(torch.float8_e4m3fn)}, "sos_embed is torch.float8_e4m3fn"),
        ({"sos_embed": torch.full((16,), float("nan"))}, "sos_embed holds NaN or infinite"),
        ({"deprojection": torch.full((16, 16), float("inf"))}, "deprojection holds NaN or infinite"),
    ],
)
def test_tensors_that_cannot_be_used_are_named(change, message):
    with pytest.raises(DeprojectorError, match=message):
        from_state_dict({**lstm(), **change}, LSTM)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_config_in_every_unicode_form(tmp_path, encoding):
    save_file(lstm(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(LSTM), encoding=encoding)
    assert load(tmp_path).config.num_layers == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(LSTM).encode("utf-16-le"), "config.json, line 1: .*UTF-16 without a byte order mark"),
        ('{\n"a": "\u732b"}'.encode("shift-jis"), "config.json, line 2: this is not UTF-8 text"),
        (b"[" * 100_000, "config.json is not valid JSON"),
        (b'{"num_layers": ' + b"9" * 5000 + b"}", "config.json is not valid JSON"),
        (b"[1]", "must hold a JSON object, got list"),
    ],
)
def test_config_that_cannot_be_read(tmp_path, data, message):
    save_file(lstm(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(DeprojectorError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>", b""])
def test_weight_files_that_are_none(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps(LSTM))
    with pytest.raises(
        DeprojectorError, match=r"model.safetensors is not a safetensors file, or it is truncated"
    ):
        load(tmp_path)


def test_relative_to_prev_before_its_halves_were_separated():
    """2d25197 and dc1dd44 add the previous row to the output whenever rows are relative to it."""
    state = state_of(TransformerConfig(**SIZES, relative_to_prev=True))
    given = {**SIZES, "relative_to_null": False, "relative_to_prev": True}
    early = from_state_dict(state, given)
    late = from_state_dict(state, {**given, "residual_wrt_prev": True})
    embeds = torch.randn(2, 16)
    assert early.config.residual_wrt_prev
    assert torch.equal(early.deproject(embeds), late.deproject(embeds))
    assert not from_state_dict(state, {**given, "residual_wrt_prev": False}).config.residual_wrt_prev


@pytest.mark.parametrize("matrix", [torch.eye(16), torch.zeros(16, 16)])
def test_without_a_projection_images_are_refused(matrix):
    module = from_state_dict({**lstm(), "deprojection": matrix}, LSTM)
    assert module.deproject(torch.ones(1, 16), rows=3).isfinite().all()
    with pytest.raises(DeprojectorError, match=r"has no inverse projection.*projection_from"):
        module.deproject(torch.ones(1, 16), from_projected=True)


class Allocations(TorchDispatchMode):
    """The largest tensor that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_run_copies_no_weights(family):
    """Also with another encoder's rows: they are swapped in, nothing is computed from the weights again."""
    config = sized(next(iter(family.presets)), {**SIZES, "hidden_size": 64, "intermediate_size": 256,
                   "projection_dim": 64, "max_position_embeddings": 9})  # fmt: skip
    module = build(config, "cpu").eval().rebased(torch.ones(64), torch.ones(64))
    with Allocations() as seen:
        module.deproject(torch.randn(1, 64))
    assert seen.largest < max(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["transformer, MLP on the input", "LSTM 2"])
def test_starting_leaves_the_global_generator_alone(name):
    encoder = {
        f"text_model.{part}.{kind}": torch.randn(shape)
        for part, shapes in {
            "embeddings.position_embedding": {"weight": (77, 16)},
            "final_layer_norm": {"weight": (16,), "bias": (16,)},
            "encoder.layers.0.layer_norm1": {"weight": (16,), "bias": (16,)},
            "encoder.layers.0.layer_norm2": {"weight": (16,), "bias": (16,)},
            "encoder.layers.0.mlp.fc1": {"weight": (32, 16), "bias": (32,)},
            "encoder.layers.0.mlp.fc2": {"weight": (16, 32), "bias": (16,)},
            **{f"encoder.layers.0.self_attn.{p}_proj": {"weight": (16, 16), "bias": (16,)} for p in ("q", "k", "v", "out")},
        }.items()
        for kind, shape in shapes.items()
    }  # fmt: skip
    rows = torch.zeros(16), torch.zeros(16)
    config = sized(name, {**SIZES, "max_position_embeddings": 77})
    before = torch.get_rng_state()
    first, second = (started(config, encoder, rows, seed=4).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_lengths_that_do_not_exist_are_refused():
    vector, null = torch.ones(4), torch.zeros(4)
    with pytest.raises(DeprojectorError, match="add up to zero"):
        merged([vector, vector], null, [1.0, -1.0], "sum", "original")
    with pytest.raises(DeprojectorError, match="holds NaN or infinite values"):
        merged([vector], null, [1e39])
    with pytest.raises(DeprojectorError, match="holds NaN or infinite values"):
        merged([vector * float("nan")], null)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_every_unicode_form(tmp_path, encoding):
    captions = [f"\u732b {number}" for number in range(20)]
    (tmp_path / "captions.txt").write_text("\n".join(captions), encoding=encoding)
    assert read_captions(tmp_path / "captions.txt") == captions


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("a cat\nan old \u732b\n".encode("shift-jis"), 2),
        ("a cat\n".encode("utf-16-le"), 1),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 1),
        (b"a cat\na dog\nmaid \0\n" * 20, 3),
    ],
)
def test_captions_in_another_form_are_refused_with_the_line(tmp_path, data, line):
    (tmp_path / "captions.txt").write_bytes(data)
    with pytest.raises(DeprojectorError, match=f"captions.txt, line {line}: "):
        read_captions(tmp_path / "captions.txt")


def test_every_preset_of_the_articles_is_there():
    layers = {"initial": (1, 2, 3), "information kept": (1, 2, 3), "wide 1x": (1, 2), "wide 1.25x": (1, 2)}
    wanted = {f"LSTM 3, {kind}, {n} layer{'s' * (n > 1)}" for kind, counts in layers.items() for n in counts}
    assert wanted | {"transformer", "V", "VT", "Mvt", "VRNN"} <= set(PRESETS)
