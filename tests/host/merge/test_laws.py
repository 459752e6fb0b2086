"""Live merges equal file merges, over every method: weights to the bit, and the reports' words."""

from pathlib import Path

import comfy.model_management
import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.files.checkpoint import TensorCheckpoint
from blockwork.merge.files.merged import MergedCheckpoint
from blockwork.merge.live import host
from blockwork.merge.methods import METHODS
from blockwork.tests.support import networks
from blockwork.tests.support.laws_kit import line, read, same_bits, texts
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

CPU = torch.device("cpu")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
TINY = {
    "channel_mult": (1, 2), "num_res_blocks": [1, 1], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 64,
}  # fmt: skip
# Layout -> network, with a few layers of it; SD2 has SD1's blocks.
MODELS = {
    "sd": ("SD1", TINY),
    "sdxl": ("SDXL", TINY),
    "flux": ("Flux.1 dev", {"depth": 2, "depth_single_blocks": 2}),
    "qwen": ("Qwen-Image", {"num_layers": 2}),
}
FORMS = {
    "sd": ("IN01=0.5", "0.5", "BASE=0.25, OUT01-OUT02=1"),
    "sdxl": ("IN01=0.5", "0.5", "BASE=0.25, OUT01-OUT02=1"),
    "flux": ("D01=0.5", "0.5", "S=0.25, TXT=1"),
    "qwen": ("B01=0.5", "0.5", "B00=0.25, IN=1"),
}


def tiny(layout: str, seed: int, dtype: torch.dtype):
    name, changes = MODELS[layout]
    return networks.shrunk(name, seed, dtype, **changes)


def weights(model) -> dict[str, torch.Tensor]:
    """What ComfyUI would load, by key."""
    return {
        key: model.patch_weight_to_device(key, device_to=CPU, return_weight=True).detach()
        for key in model.model_state_dict("diffusion_model.")
    }


def as_checkpoint(name: str, model) -> TensorCheckpoint:
    """A model's own weights as the file that holds them."""
    state = model.model_state_dict("diffusion_model.")
    return TensorCheckpoint.of(name, {f"model.{key}": tensor.detach() for key, tensor in state.items()})


def in_file(done, models) -> MergedCheckpoint:
    result = MergedCheckpoint(done, [as_checkpoint("abc"[i], m) for i, m in enumerate(models)])
    result.prepare()
    return result


def body(report: str) -> list[str]:
    """A report without its title, the names of its models, and what core's live nodes would do."""
    first, *rest = report.splitlines()
    return [
        first.partition(": ")[2],
        *(row for row in rest if not row.startswith("A: ") and "have no slider in core's" not in row),
    ]


def assert_alike(live, plan, result: MergedCheckpoint) -> None:
    ours, theirs = weights(live), read(result)
    assert ours.keys() == {key.removeprefix("model.") for key in theirs}
    for key, tensor in theirs.items():
        assert same_bits(ours[key.removeprefix("model.")], tensor), key
    assert body(plan.report()) == body(result.report.text())


# Every layout in the usual dtype, and every dtype with a U-Net and a transformer.
LAYOUTS_AND_DTYPES = [(layout, torch.float16) for layout in MODELS] + [
    ("sd", torch.float32), ("flux", torch.float32), ("sdxl", torch.bfloat16), ("qwen", torch.bfloat16),
]  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS_AND_DTYPES, ids=str)
def three(request):
    layout, dtype = request.param
    return layout, [tiny(layout, seed, dtype) for seed in (1, 2, 3)]


@pytest.mark.parametrize("name", METHODS)
def test_live_equals_file(three, name: str):
    layout, models = three
    method = METHODS[name]
    models = models[: method.most or 3]
    for text in FORMS[layout]:
        live, plan = host.merge_unets("Merge", models, name, dict(texts(method, text)), seed=5)
        assert_alike(live, plan, in_file(line(name, text, len(models), seed=5), models))


def test_live_and_file_differ_by_one_step_in_float8():
    """ComfyUI rounds float8 at random, seeded by the key: e4m3 has three bits of mantissa."""
    models = [tiny("sd", seed, torch.float8_e4m3fn) for seed in (1, 2)]
    live, plan = host.merge_models(*models, "0.3")
    result = in_file(line("each", "0.3", 2), models)
    ours, theirs = weights(live), read(result)
    for key, tensor in theirs.items():
        live_weight = ours[key.removeprefix("model.")]
        assert live_weight.dtype == tensor.dtype == torch.float8_e4m3fn
        step = tensor.float().abs().clamp(min=2**-6) * 2**-3
        assert ((live_weight.float() - tensor.float()).abs() <= step * (1 + 2**-3)).all(), key
    assert body(plan.report()) == body(result.report.text())


def test_live_equals_file_with_selectors():
    models = [tiny("flux", seed, torch.float16) for seed in (1, 2)]
    selectors = "D00:img_attn:0.75, S01:NOT linear1:0.3"
    live, plan = host.merge_models(*models, "D01=0.5", elemental=selectors)
    assert_alike(live, plan, in_file(line("each", "D01=0.5", 2, elemental=selectors), models))
    assert 0 < len(plan.merged) < len(plan.steps)


@pytest.mark.parametrize("of_a", FLOATS)
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16])
def test_the_dtype_that_core_gives_to_patches_changes_nothing(monkeypatch, of_a, given):
    models = [tiny("sd", 1, of_a), tiny("sd", 2, torch.float32), tiny("sd", 3, torch.float16)]
    result = in_file(line("add_difference", "0.3", 3), models)
    live, plan = host.add_model_difference(*models, "0.3")
    expected = weights(live)
    monkeypatch.setattr(comfy.model_management, "lora_compute_dtype", lambda device: given)
    live, plan = host.add_model_difference(*models, "0.3")
    assert_alike(live, plan, result)
    assert all(same_bits(tensor, expected[key]) for key, tensor in weights(live).items())


def test_nan_policies_have_one_name_and_one_result():
    models = [tiny("sd", seed, torch.float16) for seed in (1, 2)]
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    with torch.no_grad():
        models[1].model.diffusion_model.middle_block[0].in_layers[2].weight[0, 0, 0, 0] = float("nan")
    for text in ("0.5", "1"):
        live, plan = host.merge_models(*models, text, non_finite="keep A")
        assert_alike(live, plan, in_file(line("each", text, 2, nan="keep_a"), models))
        assert f"NaN or infinity in B, A's values kept: 1 elements in 1 tensors ({key}: 1)" in plan.report()
        with pytest.raises(MergeError, match="holds NaN or infinity"):
            host.merge_models(*models, text)


def test_input_channels_have_one_rule(build):
    wide = [build("SD15", seed, torch.float16, in_channels=n) for seed, n in ((1, 9), (2, 8))]
    for text in ("0.5", "1"):
        live, plan = host.merge_models(*wide, text)
        assert_alike(live, plan, in_file(line("each", text, 2), wide))
    with pytest.raises(MergeError, match="B has 9 input channels, A has 8"):
        host.merge_models(*reversed(wide), "0.5")


def test_loras_and_merges_of_merges_give_what_the_plain_path_gives():
    """In float32, where no step rounds: A, B or both with a LoRA, a merge as A or B, all against baked weights."""
    key = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    a, b, c = (tiny("sd", seed, torch.float32) for seed in (1, 2, 3))
    change = {key: ("diff", (torch.randn_like(a.model_state_dict()[key]),))}

    def with_lora(model):
        clone = model.clone()
        clone.add_patches(change, 0.5)
        return clone

    inner = host.merge_models(b, c, "0.25")[0]
    for first, second in (
        (with_lora(a), b), (a, with_lora(b)), (with_lora(a), with_lora(b)), (a, inner), (inner, a),
        (with_lora(inner), with_lora(inner)),
    ):  # fmt: skip
        live = weights(host.merge_models(first, second, "0.5")[0])
        baked = [weights(model) for model in (first, second)]
        for name, tensor in live.items():
            assert torch.equal(
                tensor, METHODS["each"].blend([w[name] for w in baked], {"m_a": 0.5, "m_b": 0.5})
            ), name


def test_taking_b_gives_a_copy():
    """A LoRA on top of a tensor that is B's must not change B."""
    key = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    a, b = (tiny("sd", seed, torch.float32) for seed in (1, 2))
    before = b.model_state_dict()[key].clone()
    taken, _ = host.merge_models(a, b, "1")
    taken.add_patches({key: ("diff", (torch.ones_like(before),))}, 1.0)
    assert torch.equal(weights(taken)[key], before + 1)
    assert torch.equal(b.model_state_dict()[key], before)


def test_a_prediction_type_set_by_a_node_warns(build):
    a, b = (build("SD15", seed, torch.float16) for seed in (1, 2))
    changed = ModelSamplingDiscrete().patch(b, "v_prediction", False)[0]
    assert "A predicts eps and B v_prediction" in host.merge_models(a, changed, "0.5")[1].report()
    same = ModelSamplingDiscrete().patch(a, "v_prediction", False)[0]
    assert "WARNING" not in host.merge_models(same, changed, "0.5")[1].report()


def test_a_reloaded_merge_is_the_merge(tmp_path: Path):
    """What is saved and loaded again merges like the live merge it was, in float32."""
    a, b, c = (tiny("sd", seed, torch.float32) for seed in (1, 2, 3))
    live = host.merge_models(a, b, "IN01=0.25, M00=1")[0]
    again = tiny("sd", 1, torch.float32)
    again.model.load_state_dict(weights(live), strict=False)
    ours, theirs = (weights(host.merge_models(c, model, "0.5")[0]) for model in (live, again))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
