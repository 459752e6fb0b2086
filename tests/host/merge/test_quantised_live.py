"""Live merges of models that core's own quantiser has quantised: each merged code against the merge of what core computes with."""

import comfy.float
import comfy.model_management
import comfy.sd
import pytest
import torch
from blockwork.demo_models import host as demo
from blockwork.merge.compare import host as host_compare
from blockwork.merge.errors import MergeError
from blockwork.merge.live import host
from blockwork.merge.live.host_patch import Own
from blockwork.merge.lora import host_extract, host_report
from blockwork.tests.support import quantised_kit as kit
from safetensors.torch import load_file

MODEL = "diffusion_model."
CPU = torch.device("cpu")
EPSILON = 1e-2  # steps: float32 arithmetic against float64, where the step is smallest
IN04 = "input_blocks.4."
OTHERS = ("input_blocks.5.", "middle_block.")  # as wide as groups of 64 need


@pytest.fixture(scope="module")
def states() -> list[dict[str, torch.Tensor]]:
    """Two demo models, their names without prefix."""
    return [
        {
            key.removeprefix(MODEL): value.clone()
            for key, value in demo.load_model(name).model_state_dict(MODEL).items()
        }
        for name in ("base", "ink")
    ]


def linear(state: dict[str, torch.Tensor]) -> list[str]:
    """The matrices of three blocks, but for those from whose width core reads the kind of U-Net."""
    return [
        key
        for key, value in state.items()
        if value.ndim == 2
        and key.startswith((IN04, *OTHERS))
        and ".transformer_blocks." in key
        and ".attn2." not in key
    ]


def load(state: dict[str, torch.Tensor]):
    return comfy.sd.load_diffusion_model_state_dict({key: value.clone() for key, value in state.items()})


def saved(model, path) -> dict[str, torch.Tensor]:
    """What ModelSave writes, as it is loaded again."""
    comfy.sd.save_checkpoint(str(path), model, metadata={})
    return {
        key.removeprefix(kit.PREFIX): value
        for key, value in load_file(path).items()
        if key.startswith(kit.PREFIX)
    }


def check_off(found: dict[str, torch.Tensor], key: str, exact: torch.Tensor) -> None:
    """At most one step, but for what core's float8 rounding does just below a power of two, see test_core_rounds."""
    off = kit.off(found, key, exact)
    if kit.stored_kind(found, key) in ("float8_e4m3fn", "float8_e5m2", "mxfp8"):
        assert float((off > 1 + EPSILON).double().mean()) < 1e-3 and float(off.max()) <= 2 + EPSILON
    else:
        bound = 2 if kit.stored_kind(found, key) == "nvfp4" else 1
        assert float(off.max()) <= bound + EPSILON


@pytest.mark.parametrize("form", kit.FORMS)
def test_a_merge_is_within_a_step_and_leaves_other_blocks_alone(states, form, tmp_path):
    """Merged, saved with core's ModelSave and loaded again."""
    keys = linear(states[0])
    a, b = (kit.quantised(state, form, keys) for state in states)
    merged, plan = host.merge_models(load(a), load(b), "IN04=0.3")
    assert not any("scale" in key or "comfy_quant" in key for key in plan.merged)
    assert f"A is quantised ({len(keys)} tensors" in plan.report()
    found = saved(merged, tmp_path / "merged.safetensors")
    assert found.keys() == a.keys()
    for key in keys:
        if key.startswith(IN04):
            check_off(found, key, kit.plain(a, key) * 0.7 + kit.plain(b, key) * 0.3)
        else:
            assert kit.equal(kit.parts(found, key), kit.parts(a, key)), key
    again = load(found)
    for key in keys:
        one, other = (model.model.get_parameter(MODEL + key) for model in (merged, again))
        assert torch.equal(one._qdata.view(torch.uint8), other._qdata.view(torch.uint8))
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("form", ["fp8_scaled", "int8_convrot", "nvfp4"])
def test_plain_and_quantised_models_merge(states, form, tmp_path):
    """The result has the form of A."""
    keys = [key for key in linear(states[0]) if key.startswith(IN04)]
    q = kit.quantised(states[1], form, keys)
    merged, _ = host.merge_models(load(states[0]), load(q), "IN04=0.5")
    for key in keys:
        found = merged.patch_weight_to_device(MODEL + key, device_to=CPU, return_weight=True)
        exact = (states[0][key].float() + kit.plain(q, key)) / 2
        assert (found.float() - exact).abs().max() <= exact.abs().max() * 2.0**-8
    merged, _ = host.merge_models(load(q), load(states[0]), "IN04=0.5")
    found = saved(merged, tmp_path / "merged.safetensors")
    for key in keys:
        check_off(found, key, (states[0][key].float() + kit.plain(q, key)) / 2)
    comfy.model_management.unload_all_models()


def test_every_live_node_reads_quantised_models(states):
    """Two ratios, add difference, scale, bypass, merge of a merge, and Take."""
    keys = [key for key in linear(states[0]) if key.startswith(IN04)]
    a, b = (kit.quantised(state, "int8_convrot", keys) for state in states)
    key = keys[0]
    x, y = kit.plain(a, key), kit.plain(b, key)
    one, two = load(a), load(b)
    results = {
        "two ratios": (host.merge_two_ratios(one, two, "IN04=0.8 | IN04=0.4")[0], 0.8 * x + 0.4 * y),
        "difference": (
            host.add_model_difference(one, two, load(states[1]), "IN04=1")[0],
            x + y - states[1][key].float(),
        ),
        "scale": (host.scale_blocks(one, "IN04=0.75")[0], 0.75 * x),
        "off": (host.scale_blocks(one, "IN04=0")[0], 0 * x),
        "take": (host.merge_models(one, two, "IN04=1")[0], y),
        "of a merge": (
            host.merge_models(two, host.merge_models(one, two, "IN04=0.5")[0], "IN04=0.5")[0],
            0.25 * x + 0.75 * y,
        ),
    }
    for name, (merged, exact) in results.items():
        weight = merged.patch_weight_to_device(MODEL + key, device_to=CPU, return_weight=True)
        step = weight.params.scale.max() * 1.01
        turned = kit._rotated((weight.dequantize().float() - exact).double(), kit.GROUP)
        assert float(turned.abs().max()) <= float(step) + 1e-4, name


def test_blocks_of_zeros_stay_finite(states, tmp_path):
    """Core divides by the largest value of a weight, which is 0 in a block that is multiplied by 0; a model of all formats."""
    keys, a = linear(states[0]), states[0]
    assert len(keys) >= 2 * len(kit.FORMS)
    for number, form in enumerate(kit.FORMS):
        a = kit.quantised(a, form, keys[number :: len(kit.FORMS)])
    scaled, plan = host.scale_blocks(load(a), "IN04=0, IN05=0, M00=0")
    assert plan.merged.keys() >= {MODEL + key for key in keys}
    found = saved(scaled, tmp_path / "zero.safetensors")
    for key in keys:
        values = kit.plain(found, key)
        assert values.isfinite().all() and float(values.abs().max()) < 1e-6
    comfy.model_management.unload_all_models()


def test_sliders_move_over_a_quantised_model(states):
    """Each position is what it is from a fresh start, and the last restores A's codes."""
    keys = linear(states[0])
    a = kit.quantised(states[0], "fp8_scaled", keys)
    model, other = load(a), load(kit.quantised(states[1], "int8_convrot", keys))
    never_loaded = load(a)
    for text in ("IN04=0.5", "IN04=0.75, M00=0.2", "M00=0.2", "OUT05=0"):
        merged, plan = host.merge_models(model, other, text)
        comfy.model_management.load_models_gpu([merged])
        fresh = host.merge_models(never_loaded, other, text)[0]
        for key in keys:
            have = merged.model.get_parameter(MODEL + key)
            want = fresh.patch_weight_to_device(MODEL + key, device_to=CPU, return_weight=True)
            assert torch.equal(have._qdata.view(torch.uint8), want._qdata.view(torch.uint8)), (text, key)
            if MODEL + key not in plan.merged:
                assert torch.equal(have._qdata.view(torch.uint8), a[key].view(torch.uint8))
    comfy.model_management.unload_all_models()


def test_a_is_read_as_it_is_stored_where_core_merges_in_half_precision(states, monkeypatch):
    """On GPUs core gives patches float16 or bfloat16 copies; codes times scales need more."""
    monkeypatch.setattr(comfy.model_management, "lora_compute_dtype", lambda device: torch.float16)
    keys = [key for key in linear(states[0]) if key.startswith(IN04)]
    a, b = (kit.quantised(state, "int8", keys) for state in states)
    merged, _ = host.merge_models(load(a), load(b), "IN04=0.3")
    key = MODEL + keys[0]
    patch = merged.patches[key][0][1]
    assert isinstance(patch.weights[2], Own)
    stored = merged.model.get_parameter(key)
    exact = kit.plain(a, keys[0]) * 0.7 + kit.plain(b, keys[0]) * 0.3
    rough = stored.dequantize().half()
    assert torch.allclose(
        patch.calculate_weight(rough, key, 1.0, 1.0, None, None), exact, rtol=1e-6, atol=1e-8
    )
    within = patch.calculate_weight(rough, key, 1.0, 1.0, None, None, intermediate_dtype=torch.float16)
    assert within.dtype == torch.float16 and torch.equal(within, exact.half())


def test_comparisons_and_extracted_loras_read_the_weights_not_the_codes(states, tmp_path, monkeypatch):
    keys = linear(states[0])
    plain, q = load(states[0]), load(kit.quantised(states[0], "int8_convrot", keys))
    tuned = load(kit.quantised(states[1], "fp8_scaled", keys))
    likeness = host_compare.compare_live(plain, q, "mbw")
    assert 0 < likeness.blocks["IN04"].relative < 0.02
    assert likeness.total().numel == sum(value.numel() for value in states[0].values())
    monkeypatch.setattr("folder_paths.get_output_directory", lambda: str(tmp_path))
    path, _ = host_extract.extract(tuned, q, "loras/difference", 64, 1.0, "fp32")
    lora = load_file(path)
    key = next(key for key in keys if key.startswith(IN04) and "to_q" in key)
    name = f"{MODEL}{key.removesuffix('.weight')}"
    difference = kit.plain(kit.quantised(states[1], "fp8_scaled", [key]), key) - kit.plain(
        kit.quantised(states[0], "int8_convrot", [key]), key
    )
    product = lora[f"{name}.lora_up.weight"] @ lora[f"{name}.lora_down.weight"]
    assert (product - difference).norm() <= 0.05 * difference.norm()


class GGMLTensor(torch.Tensor):
    """As ComfyUI-GGUF keeps its weights: packed bytes with the shape of the weight beside them."""


def test_foreign_quantised_weights_are_refused_with_advice(states):
    for place in (0, 1):
        models = [load(state) for state in states]
        layer = models[place].model.diffusion_model.input_blocks[4][1].transformer_blocks[0].attn2.to_q
        packed = torch.zeros(64, 34, dtype=torch.uint8).as_subclass(GGMLTensor)
        layer.weight = torch.nn.Parameter(packed, requires_grad=False)
        with pytest.raises(
            MergeError, match=f"Model {'AB'[place]} holds weights of the type GGMLTensor.*fp8_scaled file"
        ):
            host.merge_models(*models, "0.5")
        with pytest.raises(MergeError, match=f"Model {'AB'[place]} holds weights of the type GGMLTensor"):
            host_compare.compare_live(*models, "mbw")
        with pytest.raises(MergeError, match="holds weights of the type GGMLTensor"):
            host_extract.extract(*models, "loras/x", 4, 1.0, "fp32")
        with pytest.raises(MergeError, match="The model holds weights of the type GGMLTensor"):
            host_report._own(models[place], f"{MODEL}input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight")


def test_other_scales_of_inputs_are_refused_with_advice(states):
    """ModelOpt's pre_quant_scale: the matrix of such a layer is the weight times that scale."""
    key = next(key for key in linear(states[0]) if key.startswith(IN04))
    a, b = (kit.quantised(state, "nvfp4", [key]) for state in states)
    smooth = key.removesuffix("weight") + "pre_quant_scale"
    a[smooth], b[smooth] = torch.ones(64), torch.ones(64)
    host.merge_models(load(a), load(b), "0.5")
    b[smooth] = torch.full((64,), 2.0)
    with pytest.raises(MergeError, match=r"scale the inputs of 1 layers differently.*Merge to File"):
        host.merge_models(load(a), load(b), "0.5")


def test_core_rounds_float8_two_steps_off_just_below_a_power_of_two():
    """Core finds the exponent with a float16 logarithm, which rounds up there: the mantissa becomes negative.

    So a number can be stored as 0.875 of the power of two, two steps below it. The pack leaves this rounding to core.
    """
    value = torch.full((1 << 16,), 256 - 2.0**-3)  # the largest float16 below 256
    found = comfy.float.stochastic_rounding(value, torch.float8_e4m3fn, seed=1).float()
    assert {float(x) for x in found.unique()} == {224.0, 256.0}  # never 240, the code below 256
    right = comfy.float.stochastic_rounding(value - 1, torch.float8_e4m3fn, seed=1).float()
    assert {float(x) for x in right.unique()} == {240.0, 256.0}
