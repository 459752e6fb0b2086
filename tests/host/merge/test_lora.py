"""LoRA by block against core's loader: every type and naming, blocks by number, files, hooks, incremental re-merge."""

from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import pytest
import torch
from blockwork.blocks.keymap import block_of
from blockwork.merge.errors import MergeError
from blockwork.merge.live.host_incremental import IncrementalPatcher
from blockwork.merge.lora import host, host_place, host_report
from blockwork.merge.lora.host import Settings
from blockwork.merge.lora.host_files import open_lora
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file, save_file

RANK = 4
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 48, "hidden_size": 64,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [8, 12, 12], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    return tmp_path


def flux(seed: int = 0) -> ModelPatcher:
    config = comfy.supported_models.Flux(dict(FLUX))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def tensors_for(names: dict, model, kind: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """A LoRA of one type for the named modules (core's name -> key)."""
    generator = torch.Generator().manual_seed(seed)
    state = model.model.state_dict()
    out: dict[str, torch.Tensor] = {}

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    for name, key in names.items():
        shape = state[key if isinstance(key, str) else key[0]].shape
        rows = shape[0] if isinstance(key, str) or key[1] is None else key[1][2]
        columns = shape[1:].numel()
        if kind == "lora":
            out[f"{name}.lora_up.weight"], out[f"{name}.lora_down.weight"] = (
                draw(rows, RANK),
                draw(RANK, columns),
            )
            out[f"{name}.alpha"] = torch.tensor(2.0)
        elif kind == "diffusers":
            out[f"{name}.lora_B.weight"], out[f"{name}.lora_A.weight"] = draw(rows, RANK), draw(RANK, columns)
        elif kind == "loha":
            for part in ("w1", "w2"):
                out[f"{name}.hada_{part}_a"], out[f"{name}.hada_{part}_b"] = (
                    draw(rows, RANK),
                    draw(RANK, columns),
                )
            out[f"{name}.alpha"] = torch.tensor(2.0)
        elif kind == "lokr":
            out[f"{name}.lokr_w1"], out[f"{name}.lokr_w2"] = draw(2, 2), draw(rows // 2, columns // 2)
        elif kind == "dora":
            out |= tensors_for({name: key}, model, "lora", seed)
            out[f"{name}.dora_scale"] = 1 + draw(rows, 1).abs()
        elif kind == "oft":
            out[f"{name}.oft_blocks"] = draw(4, rows // 4, rows // 4)
            out[f"{name}.alpha"] = torch.tensor(0.5)
        elif kind == "boft":
            out[f"{name}.oft_blocks"] = draw(2, rows // 4, 4, 4)
            out[f"{name}.alpha"] = torch.tensor(0.5)
        elif kind == "glora":
            for part, size in {
                "a1": (columns, RANK),
                "a2": (RANK, columns),
                "b1": (rows, RANK),
                "b2": (RANK, columns),
            }.items():
                out[f"{name}.{part}.weight"] = draw(*size)
            out[f"{name}.alpha"] = torch.tensor(2.0)
        elif kind == "diff":
            out[f"{name}.diff"] = draw(*shape)
    return out


def two_dimensional(model, prefix: str, wanted: str, limit: int = 40) -> dict:
    """Core's names of linear layers in one naming, spread over the model."""
    state = model.model.state_dict()
    names = {
        name: key
        for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()
        if name.startswith(prefix)
        and wanted in name
        and (key if isinstance(key, str) else key[0]) in state
        and state[key if isinstance(key, str) else key[0]].ndim == 2
        and not name.endswith(".weight")
    }
    step = max(1, len(names) // limit)
    return dict(list(names.items())[::step])


def weights_of(patcher) -> dict[str, torch.Tensor]:
    """Every patched tensor, as core computes it."""
    state = patcher.model.state_dict()
    return {
        key: patcher.patch_weight_to_device(key, return_weight=True) if key in patcher.patches else state[key]
        for key in state
    }


def with_core(model, tensors, strength) -> dict[str, torch.Tensor]:
    loaded, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), strength, 0)
    return weights_of(loaded)


CASES = [
    *(
        ("sd15", "lora_unet_", kind)
        for kind in ("lora", "loha", "lokr", "dora", "oft", "boft", "glora", "diff")
    ),
    ("sd15", "diffusion_model.", "diffusers"),
    ("flux", "lora_unet_", "lora"),
    ("flux", "transformer.", "diffusers"),
    ("flux", "diffusion_model.", "diffusers"),
]


@pytest.mark.parametrize(("family", "prefix", "kind"), CASES)
def test_blocks_by_number_and_core_at_one(folder, build, family, prefix, kind):
    model = build("SD15", 1) if family == "sd15" else flux()
    names = two_dimensional(model, prefix, "")
    tensors = tensors_for(names, model, kind)
    save_file(tensors, folder / "x.safetensors")
    base, core = weights_of(model), with_core(model, tensors, 0.7)

    def ours(text):
        return weights_of(host.load_by_block(model, None, "x.safetensors", 0.7, 1.0, text)[0])

    whole = ours("1")
    assert all(torch.equal(whole[key], core[key]) for key in core)
    assert any(not torch.equal(core[key], base[key]) for key in core)
    nothing = ours("0")
    assert all(torch.equal(nothing[key], base[key]) for key in base)

    layout = host_place.layout_of_model(model)
    touched = {
        block_of(key if isinstance(key, str) else key[0], layout) for key in names.values()
    } & layout.index.keys()
    chosen = sorted(touched)[len(touched) // 2]
    alone = ours(f"{chosen}=0")
    for key in core:
        expected = base if key.startswith("diffusion_model.") and block_of(key, layout) == chosen else core
        assert torch.equal(alone[key], expected[key]), key


def test_a_weight_between_equals_core_at_that_strength(folder, build):
    model = build("SD15", 1)
    tensors = tensors_for(two_dimensional(model, "lora_unet_", ""), model, "lora")
    save_file(tensors, folder / "x.safetensors")
    half = weights_of(host.load_by_block(model, None, "x.safetensors", 0.8, 1.0, "IN04=0.5")[0])
    low, high = with_core(model, tensors, 0.4), with_core(model, tensors, 0.8)
    layout = host_place.layout_of_model(model)
    for key, value in half.items():
        inside = key.startswith("diffusion_model.") and block_of(key, layout) == "IN04"
        assert torch.equal(value, (low if inside else high)[key]), key


def test_slices_of_fused_layers_keep_their_places(folder):
    model = flux()
    fused = {
        name: key
        for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()
        if not isinstance(key, str) and name.startswith("transformer.") and key[0] in model.model.state_dict()
    }
    assert fused
    tensors = tensors_for(fused, model, "diffusers")
    save_file(tensors, folder / "x.safetensors")
    core = with_core(model, tensors, 1.0)
    ours, _, report, _ = host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, "D00=0")
    found = weights_of(ours)
    base = weights_of(model)
    for key in core:
        assert torch.equal(found[key], (base if "double_blocks.0." in key else core)[key]), key
    assert "D00" in report and "x 0 " in report


@pytest.mark.parametrize("kind", ["lora", "diffusers", "loha", "lokr", "glora", "diff"])
@pytest.mark.parametrize("text", ["IN04=0.3, OUT05=0, M00=1.7", "1", "IN04-IN08=0"])
def test_a_saved_file_loads_in_core_like_the_live_node(folder, build, kind, text):
    model = build("SD15", 1)
    prefix = "diffusion_model." if kind == "diffusers" else "lora_unet_"
    save_file(
        tensors_for(two_dimensional(model, prefix, ""), model, kind),
        folder / "x.safetensors",
        {"who": "test"},
    )
    live = weights_of(host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, text)[0])
    path, _ = host_report.save_by_block(model, None, "x.safetensors", "loras/y", text, Settings())
    read_back = with_core(model, load_file(path), 1.0)
    base = weights_of(model)
    exact = set(["0.3", "1.7"]).isdisjoint(text.replace(",", " ").replace("=", " ").split())
    for key, value in live.items():
        if exact:
            assert torch.equal(value, read_back[key]), key
        else:
            change = (value - base[key]).norm()
            # A float32 sum has one rounding of the weight; the factor itself is right to 1e-6 of the change.
            room = 1e-6 * change + 2e-7 * base[key].norm()
            assert (value - read_back[key]).norm() <= room, key
    with pytest.raises(MergeError, match="nothing is left"):
        host_report.save_by_block(model, None, "x.safetensors", "loras/y", "0", Settings())


def test_only_the_moved_block_is_computed_again(folder, build):
    model = build("SD15", 1)
    save_file(
        tensors_for(two_dimensional(model, "lora_unet_", "", 400), model, "lora"), folder / "x.safetensors"
    )
    first = host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, "IN04=0.5").model
    assert isinstance(first, IncrementalPatcher)
    device = torch.device("cpu")
    first.patch_model(device)
    second = host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, "IN04=0.25").model
    second.partially_load(device, 1 << 40)
    switch = second.last_switch
    inside = [key for key in second.patches if block_of(key, host_place.layout_of_model(model)) == "IN04"]
    assert (
        switch is not None and switch.recomputed == len(inside) and switch.restored == 0 and switch.kept > 0
    )
    expected = weights_of(second)
    state = second.model.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in second.patches)
    second.detach()


def test_the_report_measures_what_core_adds(folder, build):
    model = build("SD15", 1)
    tensors = tensors_for(two_dimensional(model, "lora_unet_", ""), model, "lora")
    save_file(tensors, folder / "x.safetensors")
    placed = host_place.place(open_lora("x.safetensors"), model)
    found = host_report.measured(placed, model, None)
    base, core = weights_of(model), with_core(model, tensors, 1.0)
    layout = host_place.layout_of_model(model)
    for block, change in found.items():
        keys = [key for key in placed.patches if placed.blocks[key] == block]
        dense = sum(float((core[key].double() - base[key].double()).square().sum()) for key in keys) ** 0.5
        assert change.norm == pytest.approx(dense, rel=1e-5) and 0 < change.rank <= RANK
    image, text, _ = host_report.lora_report(model, None, "x.safetensors")
    assert image.shape[-1] == 3 and "IN04" in text and layout.name in text


def test_the_blocks_that_a_lora_changes(folder, build):
    model = build("SD15", 1)
    save_file(
        tensors_for(two_dimensional(model, "lora_unet_input_blocks_4", ""), model, "lora"),
        folder / "x.safetensors",
    )
    assert host.touched(model, "x.safetensors") == ["IN04"]
    _, _, report, placed = host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, "1")
    assert len(placed.untouched) == 24 and "IN04" not in placed.untouched
    assert "does not change 24 blocks" in report


def test_hooks_hold_one_part_per_weight(folder, build):
    model = build("SD15", 1)
    save_file(tensors_for(two_dimensional(model, "lora_unet_", ""), model, "lora"), folder / "x.safetensors")
    hooks = host.hook_by_block(model, None, "x.safetensors", 0.5, 1.0, "IN04=0.5, OUT05=0").hooks
    strengths = sorted(hook._strength_model for hook in hooks.hooks)
    assert strengths == [0.25, 0.5]
    names = [set(hook.weights) for hook in hooks.hooks]
    assert not names[0] & names[1]


def test_a_lora_of_another_model_is_refused(folder, build):
    save_file({"lora_unet_nonsense.lora_up.weight": torch.zeros(2, 2)}, folder / "x.safetensors")
    with pytest.raises(MergeError, match="has no tensors for this model"):
        host.load_by_block(build("SD15", 1), None, "x.safetensors", 1.0, 1.0, "1")


def test_two_loaders_in_a_row_and_text_encoder_left_out(folder, build):
    model = build("SD15", 1)
    tensors = tensors_for(two_dimensional(model, "lora_unet_", ""), model, "lora")
    save_file(tensors, folder / "x.safetensors")
    once = host.load_by_block(model, None, "x.safetensors", 0.5, 1.0, "1").model
    twice, clip, _, _ = host.load_by_block(once, None, "x.safetensors", 0.25, 1.0, "1")
    core, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 0.5, 0)
    core, _ = comfy.sd.load_lora_for_models(core, None, dict(tensors), 0.25, 0)
    expected = weights_of(core)
    assert clip is None and all(torch.equal(value, expected[key]) for key, value in weights_of(twice).items())
