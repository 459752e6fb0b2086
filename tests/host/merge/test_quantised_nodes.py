"""Every other node of the pack on quantised models: LoRAs, recipes run live, comparisons, text encoders, sweeps."""

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import folder_paths
import pytest
import torch
from blockwork.merge.compare import host as host_compare
from blockwork.merge.errors import MergeError
from blockwork.merge.files import host as host_files
from blockwork.merge.files import replay
from blockwork.merge.live import host
from blockwork.merge.lora import host as host_lora
from blockwork.merge.lora import host_extract, host_place, host_report
from blockwork.merge.lora.host_files import open_lora
from blockwork.study import host as host_study
from blockwork.study.sweep import parse_sweep
from blockwork.tests.host.merge.test_quantised_files import EPSILON
from blockwork.tests.support import networks, tiny
from blockwork.tests.support import quantised_kit as kit
from safetensors.torch import load_file, save_file

KLEIN = {"hidden_size": 128, "num_heads": 1, "context_in_dim": 64, "depth": 2, "depth_single_blocks": 3}
WAN = {"dim": 128, "ffn_dim": 64, "num_heads": 1, "num_layers": 3, "text_dim": 4096}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain() -> list[dict[str, torch.Tensor]]:
    """Two tiny Flux.2 transformers."""
    return [
        dict(tiny.fill(networks.build("Flux.2 klein 4B", "cpu", **KLEIN), seed).state_dict())
        for seed in (1, 2)
    ]


def matrices(state: dict[str, torch.Tensor]) -> list[str]:
    return [
        key for key, value in state.items() if value.ndim == 2 and "blocks." in key and key.endswith("weight")
    ]


@pytest.fixture
def models(plain, tmp_path, monkeypatch):
    """The folder of model files and LoRAs, with a plain file ``p`` and quantised files ``qa`` (fp8), ``qb`` (nvfp4)."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    save_file(plain[0], tmp_path / "p.safetensors")
    for name, form, state in (("qa", "fp8_scaled", plain[0]), ("qb", "nvfp4", plain[1])):
        save_file(kit.quantised(state, form, matrices(state)), tmp_path / f"{name}.safetensors")
    return tmp_path


def load(folder, name: str):
    return comfy.sd.load_diffusion_model_state_dict(load_file(folder / f"{name}.safetensors"))


def lora(folder, key: str, rows: int = 384, columns: int = 128) -> torch.Tensor:
    name = f"diffusion_model.{key.removesuffix('.weight')}"
    up, down = torch.randn(rows, 2) * 0.1, torch.randn(2, columns) * 0.1
    save_file({f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}, folder / "add.safetensors")
    return up @ down


@pytest.mark.parametrize("name", ["qa", "qb"])
def test_a_lora_in_a_recipe_is_added_to_the_weights(models, name):
    state = load_file(models / f"{name}.safetensors")
    key = "double_blocks.1.img_attn.qkv.weight"
    change = lora(models, key)
    merged = host_files.to_file(f"o = {name} + lora(add, 0.5)", "mix")
    found = load_file(merged.path)
    for other in (other for other in state if f"{other.removesuffix('weight')}comfy_quant" in state):
        if other == key:
            exact = kit.plain(state, key).float() + 0.5 * change
            assert float(kit.off(found, key, exact).max()) <= 0.5 + EPSILON
        else:
            assert kit.equal(kit.parts(found, other), kit.parts(state, other))


def test_a_lora_of_another_shape_is_refused_for_quantised_models(models):
    for name in ("qa", "qb"):
        state = load_file(models / f"{name}.safetensors")
        key = next(key for key in state if key.endswith("double_blocks.1.img_attn.qkv.weight"))
        model = load(models, name)
        lora(models, key)
        assert "1 patches for" in host_lora.load_by_block(model, None, "add.safetensors", 1, 1, "1").report
        lora(models, key, columns=64)
        with pytest.raises(MergeError, match="no tensors of the shapes of this model"):
            host_lora.load_by_block(model, None, "add.safetensors", 1, 1, "1")


@pytest.mark.parametrize("form", kit.FORMS)
def test_a_lora_report_measures_the_weights_not_the_codes(models, plain, form):
    key = "double_blocks.1.img_attn.qkv.weight"
    state = kit.quantised(plain[0], form, matrices(plain[0]))
    model = comfy.sd.load_diffusion_model_state_dict(dict(state))
    change = lora(models, key)
    placed = host_place.place(open_lora("add.safetensors"), model)
    found = host_report.measured(placed, model, None)["D01"]
    assert found.norm == pytest.approx(float(change.norm()), rel=1e-5)
    assert found.own == pytest.approx(float(kit.plain(state, key).norm()), rel=1e-5)


def test_a_recipe_with_fp8_scaled_runs_live_and_again(models):
    recipe = "o = p + qb, alpha=[D01=0.5], dtype=fp8_scaled"
    merged = host_files.to_file(recipe, "mix")
    written = load_file(merged.path)
    model, *_ = host_files.live(recipe)
    for key in matrices(load_file(models / "p.safetensors")):
        weight = model.model.get_parameter(f"diffusion_model.{key}")
        assert torch.equal(weight._qdata.view(torch.uint8), written[key].view(torch.uint8))
    assert replay(merged.path, models / "again", resolve=host_files.find)[1]


def test_other_factors_of_inputs_are_refused_where_weights_are_compared(models, plain):
    key = matrices(plain[1])[0]
    state = load_file(models / "qb.safetensors")
    for name, factor in (("one", 1.0), ("two", 2.0)):
        factors = {
            key.removesuffix("weight") + "pre_quant_scale": torch.full((plain[1][key].shape[1],), factor)
        }
        save_file(state | factors, models / f"{name}.safetensors")
    one, two = load(models, "one"), load(models, "two")
    with pytest.raises(MergeError, match="scale the inputs of 1 layers differently"):
        host_compare.compare_live(one, two, "mbw")
    with pytest.raises(MergeError, match="scale the inputs of 1 layers differently"):
        host_extract.extract(one, two, "loras/x", 4, 1.0, "fp32")


TINY_CLIP = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def clip(state: dict[str, torch.Tensor] | None, seed: int):
    """A tiny text encoder of core's own class, with quantised layers."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    options: dict = {"clip_l_model_config": TINY_CLIP}
    if state is not None:
        options["quantization_metadata"] = {"mixed_ops": True}
        return comfy.sd.CLIP(target, model_options=options, state_dict=[dict(state)])
    found = comfy.sd.CLIP(target, model_options=options)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.cond_stage_model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=g))
    return found


def test_quantised_text_encoders_merge():
    a, b = (clip(None, seed) for seed in (1, 2))
    states = [dict(it.cond_stage_model.clip_l.transformer.state_dict()) for it in (a, b)]
    keys = [
        key for key in states[0] if "layers." in key and key.endswith("weight") and states[0][key].ndim == 2
    ]
    q = [kit.quantised(state, "fp8_scaled", keys) for state in states]
    for one, two, x, y in (
        (clip(q[0], 0), b, q[0], None),
        (a, clip(q[1], 0), None, q[1]),
        (clip(q[0], 0), clip(q[1], 0), *q),
    ):
        merged, plan = host.merge_clips(one, two, 0.25)
        assert f"{'A' if x else 'B'} is quantised ({len(keys)} tensors" in plan.report()
        assert not any("scale" in key and "logit" not in key for key in plan.merged)
        for key in keys:
            exact = 0.75 * (kit.plain(x, key) if x else states[0][key]) + 0.25 * (
                kit.plain(y, key) if y else states[1][key]
            )
            name = f"clip_l.transformer.{key}"
            found = merged.patcher.patch_weight_to_device(name, device_to=CPU, return_weight=True)
            found = found.dequantize() if hasattr(found, "dequantize") and x else found
            bound = exact.abs().max() * (2**-3 if x else 2**-8)
            assert (found.float() - exact).abs().max() <= bound


@pytest.mark.parametrize("kind", ["Flux.2 klein 4B", "Wan 2.1"])
def test_a_sweep_finds_and_bypasses_the_blocks_of_a_quantised_model(kind):
    """Scales and descriptions are not layers: the same blocks and last layers as without them."""
    small = KLEIN if kind.startswith("Flux") else WAN
    state = dict(tiny.fill(networks.build(kind, "cpu", **small), 1).state_dict())
    keys = matrices(state)
    plain, q = (
        comfy.sd.load_diffusion_model_state_dict(dict(it))
        for it in (state, kit.quantised(state, "nvfp4", keys))
    )
    layout = host_study.layout_of_model(q)
    assert layout == host_study.layout_of_model(plain)
    block = layout.blocks[-1]
    host_study.check_bypass(q, parse_sweep(layout, block, "off", "1"))
    merged = [host.scale_blocks(model, f"{block}=off")[1].merged for model in (plain, q)]
    assert merged[0].keys() == merged[1].keys() and merged[0]


def test_nan_in_a_loaded_quantised_model_is_an_error_or_kept(plain):
    key = matrices(plain[1])[0]
    for form in ("fp8_scaled", "int8", "nvfp4"):
        state = kit.quantised(plain[1], form, matrices(plain[1]))
        word = "weight_scale_2" if form == "nvfp4" else "weight_scale"
        state[key.removesuffix("weight") + word] = torch.tensor(torch.nan)
        a, b = (comfy.sd.load_diffusion_model_state_dict(dict(it)) for it in (plain[0], state))
        with pytest.raises(MergeError, match="of model B holds NaN"):
            host.merge_models(a, b, "0.5")
        merged, plan = host.merge_models(a, b, "0.5", non_finite="keep A")
        assert f"NaN or infinity in B, A's values kept: {plain[1][key].numel()}" in plan.report()
        found = merged.patch_weight_to_device(f"diffusion_model.{key}", device_to=CPU, return_weight=True)
        assert torch.equal(found, a.model.get_parameter(f"diffusion_model.{key}"))
