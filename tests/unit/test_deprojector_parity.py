"""The same numbers as the original: its own results for every family and flag, and a slow reference at full size."""

import importlib.util

import pytest
import torch
from blockwork.deprojector import from_state_dict, load, save
from blockwork.deprojector.families import (
    LstmConfig,
    MvtConfig,
    TransformerConfig,
    VicinityConfig,
    VrnnConfig,
    VtConfig,
)
from blockwork.deprojector.files import build
from blockwork.tests.support.deprojector_results import DATA, FLAGS, GOLDENS, flag, golden
from blockwork.tests.support.rounding import float32_bound


def _reference():
    path = DATA.parents[2] / "benchmarks" / "deprojector_reference.py"
    spec = importlib.util.spec_from_file_location("deprojector_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _reference()


def _double(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


# The rows whose results are stored; each depends on all rows before it.
ROWS = [0, 1, 2, 3, 4, 9, 19, 38, 57, 76]


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_in_float64(name):
    tensors, weights, case = golden(name)
    module = from_state_dict({key: _double(value) for key, value in weights.items()}, case["config"])
    result = module.deproject(tensors["embeds"].double(), **case["kwargs"])
    assert result.dtype == torch.float64
    torch.testing.assert_close(result[:, ROWS], tensors["out64"], rtol=0, atol=1e-9)
    assert torch.equal(result[:, 0], module.sos_embed.expand(len(result), -1))


@pytest.mark.parametrize("name", GOLDENS)
@torch.no_grad()
def test_golden_in_float32(name):
    """Float32 results, and the author's teacher-forced ones, are the float64 result but for amplified rounding."""
    tensors, weights, case = golden(name)
    module = from_state_dict(weights, case["config"])
    exact = from_state_dict({key: _double(value) for key, value in weights.items()}, case["config"])

    def free():
        return exact.deproject(tensors["embeds"].double(), **case["kwargs"])

    def forced():
        return exact.teacher_forced(tensors["embeds"][:1].double(), tensors["teacher_in"].double())

    found = {free: [module.deproject(tensors["embeds"], **case["kwargs"])]}
    if "teacher" in tensors and case["config"].get("ensemble_size", 1) == 1:
        found[forced] = [
            tensors["teacher"],
            module.teacher_forced(tensors["embeds"][:1], tensors["teacher_in"]),
        ]
    for run, results in found.items():
        expected, bound = run(), float32_bound(run)
        assert bound < 1e-3
        for result in results:
            assert result.dtype == torch.float32
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_in_float64(name):
    """120 small models with random flags, run by the original; the weights are exact in float32."""
    tensors, weights, case = flag(name)
    module = from_state_dict({key: _double(value) for key, value in weights.items()}, case["config"])
    result = module.deproject(tensors["embeds"].double(), **case["kwargs"])
    torch.testing.assert_close(result, tensors["out64"], rtol=1e-10, atol=1e-9)
    assert set(module.state_dict()) == set(weights)


@pytest.mark.parametrize("name", [name for name in GOLDENS if "v5" not in name])
def test_the_revision_is_written_as_it_was_read(name, tmp_path):
    tensors, weights, case = golden(name)
    module = from_state_dict(weights, case["config"])
    again = load(save(module, tmp_path / name))
    assert set(again.state_dict()) == set(module.state_dict())
    first = module.deproject(tensors["embeds"], **case["kwargs"])
    assert torch.equal(first, again.deproject(tensors["embeds"], **case["kwargs"]))


WIDE = dict(use_model3=True, x_residual=False, h0_residual=True, states_proj=True)
KEEP = dict(use_model3=True, x_residual=False, h0_residual=True, x_out_residual=True)
FULL_SIZE = {
    "v1": TransformerConfig(has_null=False, embed_second=False),
    "v3": TransformerConfig(relative_to_null=True),
    "v5": TransformerConfig(relative_to_null=True, apply_mlp_to_input=True, ensemble_size=4),
    "v": VicinityConfig(),
    "vt": VtConfig(),
    "mvt": MvtConfig(),
    "lstm1": LstmConfig(lstm_hidden_size=768),
    "lstm1 with embed": LstmConfig(lstm_hidden_size=768, use_extra=True, use_out_proj=True),
    "lstm2": LstmConfig(use_model2=True),
    **{f"initial {n}": LstmConfig(use_model3=True, num_layers=n) for n in (1, 2, 3)},
    **{f"keep {n}": LstmConfig(num_layers=n, **KEEP) for n in (1, 2, 3)},
    **{f"wide 1x {n}": LstmConfig(num_layers=n, lstm_hidden_size=768, **WIDE) for n in (1, 2)},
    **{f"wide 1.25x {n}": LstmConfig(num_layers=n, lstm_hidden_size=960, **WIDE) for n in (1, 2)},
    "mlp 1": LstmConfig(use_model3=True, num_layers=1, use_mlp=True),
    "mlp 2": LstmConfig(use_model3=True, num_layers=1, additional_mlp=True, mlp_intermediate_dim=1536),
    "vrnn": VrnnConfig(),
    "vrnn mlp": VrnnConfig(m1_type="mlp", m1_f_size=768, m2_type="mlp", m2_f_size=768),
}


def full_size(name, seed, batch, rows, **call):
    """Ours and the reference's rows of a random 768-d model in float64."""
    config = FULL_SIZE[name]
    torch.manual_seed(seed)
    module = build(config, "cpu").double().eval()
    with torch.no_grad():
        for key, tensor in module.named_buffers():
            if key.endswith(("_embed", "running_mean")):
                tensor.normal_()
            elif key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    fields = {**config.as_json(), "max_position_embeddings": rows}
    embeds = torch.randn(batch, 768, dtype=torch.float64)
    state = module.state_dict()
    for key in state:
        if "position_embedding" in key:
            state[key] = state[key][:rows]
    return module.deproject(embeds, rows=rows, **call), reference.generate(state, fields, embeds, **call)


@pytest.mark.parametrize(("seed", "batch"), [(3, 1), (4, 3), (5, 8)])
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_against_the_slow_reference(name, seed, batch):
    """768-d in float64; the reference recomputes everything, so both are stopped after six rows."""
    result, expected = full_size(name, seed, batch, rows=6)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["v1", "v", "lstm1", "lstm2", "initial 1", "keep 1", "vrnn", "vrnn mlp"])
def test_full_size_and_length(name):
    """768-d, all 77 rows."""
    result, expected = full_size(name, seed=6, batch=1, rows=77)
    assert result.shape == (1, 77, 768)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_full_size_fused():
    result, expected = full_size("v5", seed=7, batch=2, rows=5, fuse=0.3)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)
