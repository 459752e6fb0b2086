"""LoRA files for IF stages: each naming convention changes exactly the weights it names."""

import comfy.lora
import comfy.sd
import pytest
import torch
from blockwork.cascade import host_load, host_model, keys
from blockwork.cascade.lora import comfy_names
from blockwork.tests.support import cascade_files
from safetensors.torch import save_file

host_model.register()
TARGETS = (
    "down_blocks.1.attentions.0.to_q",
    "mid_block.attentions.0.add_k_proj",
    "up_blocks.0.attentions.1.to_out.0",
)


@pytest.fixture(scope="module")
def model():
    weights = cascade_files.stage_state_dict(cascade_files.stage_config("I"))
    return comfy.sd.load_diffusion_model_state_dict(keys.to_original(weights))


def lora(model, naming):
    """A rank-2 LoRA of the targets under one convention, and the change it means for each weight."""
    generator = torch.Generator().manual_seed(0)
    entries, changes = {}, {}
    for target in TARGETS:
        weight = model.model.diffusion_model.get_submodule(target).weight
        up = torch.randn(weight.shape[0], 2, generator=generator)
        down = torch.randn(2, weight.shape[1], generator=generator)
        up_name, down_name = naming(target)
        entries |= {up_name: up, down_name: down}
        changes[f"diffusion_model.{target}.weight"] = up @ down
    return entries, changes


def kohya(target):
    base = f"lora_unet_{target.replace('.', '_')}"
    return f"{base}.lora_up.weight", f"{base}.lora_down.weight"


def peft(target):
    return f"unet.{target}.lora_B.weight", f"unet.{target}.lora_A.weight"


def old_processors(target):
    block, _, name = target.removesuffix(".0").rpartition(".")
    return f"{block}.processor.{name}_lora.up.weight", f"{block}.processor.{name}_lora.down.weight"


def old_processors_under_unet(target):
    return tuple(f"unet.{name}" for name in old_processors(target))


@pytest.mark.parametrize("naming", [kohya, peft, old_processors, old_processors_under_unet])
def test_each_convention_changes_what_it_names(model, naming, tmp_path):
    entries, changes = lora(model, naming)
    path = tmp_path / "lora.safetensors"
    save_file(entries, path)
    patched = host_load.with_lora(model, str(path), 0.5)
    before, after = model.model_state_dict(), patched.patch_model().state_dict()
    try:
        for key, weight in before.items():
            expected = weight + 0.5 * changes[key] if key in changes else weight
            if key in changes:
                torch.testing.assert_close(after[key], expected, rtol=0, atol=1e-5)
            else:
                assert torch.equal(after[key], expected), key
    finally:
        patched.unpatch_model()


def test_every_target_of_cores_map_exists(model):
    state_dict = model.model.state_dict()
    targets = comfy.lora.model_lora_keys_unet(model.model, {}).values()
    assert targets
    assert all(target in state_dict for target in targets)


def test_kohya_files_work_with_cores_loader(model):
    entries, changes = lora(model, kohya)
    patched, _ = comfy.sd.load_lora_for_models(model, None, entries, 1.0, 0.0)
    assert patched.patches.keys() == changes.keys()


def test_a_lora_for_another_model_is_refused(model, tmp_path):
    path = tmp_path / "flux.safetensors"
    save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(1, 1)}, path)
    with pytest.raises(ValueError, match="does not fit this stage"):
        host_load.with_lora(model, str(path), 1.0)


def test_unknown_names_pass_through():
    names = {"lora_unet_down_blocks_0.lora_up.weight": 1, "text_encoder.x": 2}
    assert comfy_names(names) == names
