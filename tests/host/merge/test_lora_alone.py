"""Report, Save and Merge without a MODEL: blocks from the file's own names, the same as with the model."""

import comfy.lora
import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.lora import host_extract, host_place, host_report
from blockwork.merge.lora.host import Settings
from blockwork.merge.lora.host_files import open_lora
from blockwork.merge.lora.names import own_names
from blockwork.tests.host.merge.test_lora import flux, folder, tensors_for, two_dimensional  # noqa: F401
from safetensors.torch import load_file, save_file

NAMINGS = [
    ("SD15", "lora_unet_input_blocks"), ("SD15", "lora_unet_down_blocks"), ("SD15", "lora_unet_up_blocks"),
    ("SD15", "diffusion_model."), ("SD15", "unet.down_blocks"), ("SD15", "lycoris_"), ("SDXL", "lora_unet_"),
    ("SDXL", "down_blocks"), ("SDXL", "diffusion_model."), ("flux", "lora_unet_"), ("flux", "transformer."),
    ("flux", "diffusion_model."), ("flux", "lora_transformer_"),
]  # fmt: skip


def model_of(family, build):
    return (
        flux()
        if family == "flux"
        else build(family, 1, **({"context_dim": 2048} if family == "SDXL" else {}))
    )


@pytest.mark.parametrize(("family", "prefix"), NAMINGS)
def test_the_names_of_a_file_tell_the_blocks_of_the_model(folder, build, family, prefix):  # noqa: F811
    model = model_of(family, build)
    one_name = {
        key: name for name, key in two_dimensional(model, prefix, "block", 60).items()
    }  # core has more
    tensors = tensors_for({name: key for key, name in one_name.items()}, model, "lora")
    assert tensors
    save_file(tensors, folder / "x.safetensors")
    file = open_lora("x.safetensors")
    alone, placed = host_place.place(file, None), host_place.place(file, model)
    with_model = {module: placed.blocks[key] for module, key in host_place.placed_modules(placed).items()}
    blocks = {module: alone.blocks[key] for module, key in alone.names.items()}
    numbered = {
        module: block
        for module, block in with_model.items()
        if block in placed.layout.index and module in blocks
    }
    assert numbered and {module: blocks[module] for module in numbered} == numbered
    image, text, sizes = host_report.lora_report(None, None, "x.safetensors")
    known = host_report.lora_report(model, None, "x.safetensors").text
    for block in set(numbered.values()):
        row, full = (
            next(line.split() for line in report.splitlines() if line.startswith(block))
            for report in (text, known)
        )
        assert row[1] == full[1] and row[2] == "-" and row[3:] == full[3:] and sizes[block] > 0
    assert image.shape[-1] == 3
    chosen = sorted(set(numbered.values()))[0]
    for text in (f"{chosen}=0", f"{chosen}=0.5"):
        one, two = (
            load_file(host_report.save_by_block(given, None, "x.safetensors", "y", text, Settings())[0])
            for given in (model, None)
        )
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_two_files_of_one_naming_are_merged_without_a_model(folder, build):  # noqa: F811
    model = build("SD15", 1)
    names = two_dimensional(model, "lora_unet_down_blocks", "attn")
    for seed, name in enumerate("ab", 1):
        save_file(tensors_for(names, model, "lora", seed), folder / f"{name}.safetensors")
    given = (("a.safetensors", "b.safetensors"), ("IN04=0.5", "IN05=0"), "y", 0, "fp32", Settings())
    alone = load_file(host_extract.merge_loras(None, None, *given)[0])
    known = load_file(host_extract.merge_loras(model, None, *given)[0])
    as_core = {comfy.lora.model_lora_keys_unet(model.model, {})[name.split(".lora")[0]]: t for name, t in alone.items() if "lora_up" in name}  # fmt: skip
    for key, tensor in as_core.items():
        assert torch.equal(tensor, known[key.removesuffix(".weight") + ".lora_up.weight"])
    save_file(
        tensors_for(two_dimensional(model, "diffusion_model.", "attn"), model, "lora"),
        folder / "b.safetensors",
    )
    with pytest.raises(
        MergeError, match=r"different ways \(lora_unet_.* and diffusion_model\..*Connect the model"
    ):
        host_extract.merge_loras(None, None, *given)


def test_names_that_tell_no_blocks_need_a_model(folder, build):  # noqa: F811
    model = build("SD15", 1)
    names = two_dimensional(model, "lora_unet_input_blocks", "attn1")
    pair = tensors_for(dict(list(names.items())[:1]), model, "lora")  # SD1 or SDXL: nothing tells
    for tensors in (
        pair,
        {"some_layer.lora_up.weight": torch.ones(2, 1), "some_layer.lora_down.weight": torch.ones(1, 2)},
    ):
        save_file(tensors, folder / "x.safetensors")
        for use in (
            lambda: host_report.lora_report(None, None, "x.safetensors"),
            lambda: host_report.save_by_block(None, None, "x.safetensors", "y", "1", Settings()),
            lambda: host_extract.merge_loras(
                None, None, ("x.safetensors",) * 2, ("1", "1"), "y", 0, "fp16", Settings()
            ),
        ):
            with pytest.raises(MergeError, match="Connect the model"):
                use()


def test_types_that_depend_on_the_weight_need_a_model(folder, build):  # noqa: F811
    model = build("SD15", 1)
    save_file(
        tensors_for(two_dimensional(model, "lora_unet_down_blocks", ""), model, "dora"),
        folder / "x.safetensors",
    )
    with pytest.raises(MergeError, match="depends on the model's weight"):
        host_report.lora_report(None, None, "x.safetensors")
    host_report.save_by_block(None, None, "x.safetensors", "y", "IN04=0", Settings())


def test_text_encoders_follow_base(folder):  # noqa: F811
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file(
        {f"{name}.lora_up.weight": torch.ones(4, 1), f"{name}.lora_down.weight": torch.ones(1, 4)},
        folder / "x.safetensors",
    )
    path, _ = host_report.save_by_block(None, None, "x.safetensors", "y", "0.5", Settings())
    assert torch.equal(load_file(path)[f"{name}.lora_up.weight"], torch.full((4, 1), 0.5))


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("diffusion_model.layers.3.attention.qkv", "B03"), ("lora_unet_layers_3_attention_qkv", "B03"),
        ("diffusion_model.context_refiner.1.attention.qkv", "CR01"), ("lora_unet_blocks_7_cross_attn_k", "B07"),
        ("diffusion_model.llm_adapter.blocks.2.mlp.0", "A02"), ("transformer.transformer_blocks.12.attn.to_q", "B12"),
        ("lora_unet_joint_blocks_5_x_block_attn_qkv", "J05"), ("lycoris_blocks_1_attn_wq", "B01"),
    ],
)  # fmt: skip
def test_names_of_transformers(module, block):
    found = own_names(
        {f"{module}.lora_A.weight": torch.ones(1, 2), f"{module}.lora_B.weight": torch.ones(2, 1)}
    )
    assert host_place.block_of(found.keys[module], found.layout) == block
