"""LoRAs in the namings of the trainers, on models of core's classes: weights land in the block that the name says.

The names are written out here and not read from core. What other tools get wrong is a test each, with the issue's number.
"""

from functools import cache
from typing import NamedTuple

import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from blockwork.merge.lora import host, host_place, host_report
from blockwork.merge.lora.host import Settings
from blockwork.merge.lora.host_files import open_lora
from blockwork.tests.host.merge.test_lora import flux, folder, weights_of, with_core  # noqa: F401
from blockwork.tests.support import networks, tiny, transformer_kit
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
CLASSES = {
    "Z-Image": ("ZImage", "lumina2"),
    "Qwen-Image": ("QwenImage", "qwen_image"),
    "Krea 2": ("Krea2", "krea2"),
    "SD3": ("SD3", None),
}


class Name(NamedTuple):
    """A trainer's name of a layer, its block and key with {} for the number, and which third of a fused layer it is."""

    module: str
    block: str
    key: str
    third: int | None = None


NAMES: dict[str, list[Name]] = {
    "Z-Image": [
        Name("lora_unet_layers_{}_attention_qkv", "B0{}", "layers.{}.attention.qkv"),
        Name("lora_unet_layers_{}_feed_forward_w1", "B0{}", "layers.{}.feed_forward.w1"),
        Name("diffusion_model.layers.{}.attention.to_q", "B0{}", "layers.{}.attention.qkv", 0),
        Name("transformer.layers.{}.attention.to_k", "B0{}", "layers.{}.attention.qkv", 1),
        Name("layers.{}.attention.to_v", "B0{}", "layers.{}.attention.qkv", 2),
        Name("lycoris_layers_{}_attention_to_out_0", "B0{}", "layers.{}.attention.out"),
        Name("diffusion_model.context_refiner.{}.attention.to_v", "CR0{}", "context_refiner.{}.attention.qkv", 2),
        Name("transformer.noise_refiner.{}.feed_forward.w2", "NR0{}", "noise_refiner.{}.feed_forward.w2"),
    ],
    "Anima": [
        Name("lora_unet_blocks_{}_self_attn_q_proj", "B0{}", "blocks.{}.self_attn.q_proj"),
        Name("diffusion_model.blocks.{}.cross_attn.v_proj", "B0{}", "blocks.{}.cross_attn.v_proj"),
        Name("lora_unet_llm_adapter_blocks_{}_mlp_0", "A0{}", "llm_adapter.blocks.{}.mlp.0"),
    ],
    "Wan 2.1": [
        Name("lora_unet_blocks_{}_self_attn_q", "B0{}", "blocks.{}.self_attn.q"),
        Name("diffusion_model.blocks.{}.ffn.0", "B0{}", "blocks.{}.ffn.0"),
        Name("lora_unet__blocks_{}_cross_attn_k", "B0{}", "blocks.{}.cross_attn.k"),
    ],
    "Qwen-Image": [
        Name("lora_unet_transformer_blocks_{}_attn_to_k", "B0{}", "transformer_blocks.{}.attn.to_k"),
        Name("transformer.transformer_blocks.{}.attn.to_q", "B0{}", "transformer_blocks.{}.attn.to_q"),
        Name("transformer_blocks.{}.attn.add_k_proj", "B0{}", "transformer_blocks.{}.attn.add_k_proj"),
        Name("diffusion_model.transformer_blocks.{}.img_mlp.net.2", "B0{}", "transformer_blocks.{}.img_mlp.net.2"),
        Name("lycoris_transformer_blocks_{}_txt_mlp_net_2", "B0{}", "transformer_blocks.{}.txt_mlp.net.2"),
    ],
    "Krea 2": [
        Name("diffusion_model.blocks.{}.attn.wq", "B0{}", "blocks.{}.attn.wq"),
        Name("lora_unet_blocks_{}_mlp_up", "B0{}", "blocks.{}.mlp.up"),
        Name("transformer.transformer_blocks.{}.attn.to_v", "B0{}", "blocks.{}.attn.wv"),
        Name("lycoris_transformer_blocks_{}_ff_gate", "B0{}", "blocks.{}.mlp.gate"),
        Name("transformer.text_fusion.layerwise_blocks.{}.attn.to_k", "TL0{}", "txtfusion.layerwise_blocks.{}.attn.wk"),
    ],
    "Flux": [
        Name("lora_unet_double_blocks_{}_img_attn_qkv", "D0{}", "double_blocks.{}.img_attn.qkv"),
        Name("transformer.transformer_blocks.{}.attn.to_k", "D0{}", "double_blocks.{}.img_attn.qkv", 1),
        Name("lora_transformer_transformer_blocks_{}_attn_add_v_proj", "D0{}", "double_blocks.{}.txt_attn.qkv", 2),
        Name("diffusion_model.single_blocks.{}.linear2", "S0{}", "single_blocks.{}.linear2"),
        Name("lycoris_single_transformer_blocks_{}_proj_out", "S0{}", "single_blocks.{}.linear2"),
    ],
    "SD3": [
        Name("lora_unet_joint_blocks_{}_x_block_attn_qkv", "J0{}", "joint_blocks.{}.x_block.attn.qkv"),
        Name("transformer.transformer_blocks.{}.attn.to_q", "J0{}", "joint_blocks.{}.x_block.attn.qkv", 0),
        Name("lora_transformer_transformer_blocks_{}_attn_add_v_proj", "J0{}", "joint_blocks.{}.context_block.attn.qkv", 2),
        Name("base_model.model.transformer_blocks.{}.ff.net.2", "J0{}", "joint_blocks.{}.x_block.mlp.fc2"),
    ],
}  # fmt: skip


@cache
def model_of(family: str):
    if family == "Flux":
        return flux()
    if family in ("Anima", "Wan 2.1"):
        return transformer_kit.MODELS["anima" if family == "Anima" else "wan"]()
    kind, image_model = CLASSES[family]
    config = {**networks.NETWORKS[family][1], **tiny.CHANGES[family]} | (
        {"image_model": image_model} if image_model else {}
    )
    made = getattr(comfy.supported_models, kind)(config)
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, device="cpu")
    tiny.fill(model.diffusion_model, 1)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def lora_of(model, name: Name, numbers=(0, 1), rank: int = 2) -> dict[str, torch.Tensor]:
    """A LoRA for one layer of some blocks, with the suffixes that the naming's trainers write."""
    state, generator = model.model.state_dict(), torch.Generator().manual_seed(3)
    up, down = (".lora_up.weight", ".lora_down.weight") if name.module.startswith("l") and "." not in name.module else (".lora_B.weight", ".lora_A.weight")  # fmt: skip
    if name.module.startswith("transformer_blocks"):
        up, down = ".lora_B.default.weight", ".lora_A.default.weight"
    tensors = {}
    for number in numbers:
        rows, columns = state[f"diffusion_model.{name.key.format(number)}.weight"].shape
        module = name.module.format(number)
        tensors[module + up] = torch.randn(
            rows if name.third is None else rows // 3, rank, generator=generator
        )
        tensors[module + down] = torch.randn(rank, columns, generator=generator)
        if "lora_up" in up:
            tensors[f"{module}.alpha"] = torch.tensor(1.0)
    return tensors


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in NAMES.items() for name in names]
)
def test_weights_land_where_the_name_says(folder, family, name):  # noqa: F811
    model = model_of(family)
    tensors = lora_of(model, name)
    save_file(tensors, folder / "x.safetensors")
    base, core = (
        weights_of(model),
        with_core(model, load_file(folder / "x.safetensors"), 0.7) if "__" not in name.module else None,
    )

    def ours(text: str) -> dict[str, torch.Tensor]:
        return weights_of(host.load_by_block(model, None, "x.safetensors", 0.7, 1.0, text).model)

    whole, keys = ours("1"), [f"diffusion_model.{name.key.format(number)}.weight" for number in (0, 1)]
    core = core or with_core(
        model, open_lora("x.safetensors").tensors, 0.7
    )  # core's loader node converts the names first
    assert all(torch.equal(whole[key], core[key]) for key in core)
    assert [key for key in whole if not torch.equal(whole[key], base[key])] == keys
    nothing = host.load_by_block(model, None, "x.safetensors", 0.7, 1.0, "0").model
    assert not nothing.patches
    alone = ours(f"BASE=0.5, {name.block.format(1)}=0")
    assert torch.equal(alone[keys[0]], core[keys[0]]) and torch.equal(alone[keys[1]], base[keys[1]])
    if name.third is not None:
        changed = (whole[keys[0]] != base[keys[0]]).any(1).view(3, -1)
        assert [bool(third.any()) for third in changed] == [place == name.third for place in range(3)]


# What other tools get wrong. Inspire: 191, 165, 15 (counts the blocks of the file), 132 (the first block is always 1).


@pytest.mark.parametrize("family", ["Z-Image", "Wan 2.1", "Flux"])
def test_blocks_are_counted_in_the_model_and_not_in_the_file(folder, family):  # noqa: F811
    model, name = model_of(family), NAMES[family][0]
    save_file(lora_of(model, name, (1,)), folder / "x.safetensors")
    first, second = name.block.format(0), name.block.format(1)
    assert host.touched(model, "x.safetensors") == [second]
    assert host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, f"{first}=0").model.patches
    assert not host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, f"{second}=0").model.patches
    save_file(lora_of(model, name, (0,)), folder / "x.safetensors")
    assert not host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, f"{first}=0").model.patches


# Inspire 221 (needs a CLIP), 264 (slices of qkv: see above), and: `text` or `encoder` in a name goes to the CLIP.


@pytest.mark.parametrize(
    ("family", "module"),
    [("Wan 2.1", "text_embedding.0"), ("SD3", "context_embedder"), ("Anima", "llm_adapter.blocks.0.mlp.0"), ("Krea 2", "txtfusion.projector")],
)  # fmt: skip
def test_layers_with_text_in_their_name_are_the_model_s(folder, family, module):  # noqa: F811
    model = model_of(family)
    key = f"diffusion_model.{module}.weight"
    rows, columns = model.model.state_dict()[key].shape
    tensors = {
        f"diffusion_model.{module}.lora_B.weight": torch.ones(rows, 1),
        f"diffusion_model.{module}.lora_A.weight": torch.ones(1, columns),
    }
    save_file(tensors, folder / "x.safetensors")
    placed = host_place.place(open_lora("x.safetensors"), model)
    assert placed.is_text == {key: False}
    block = "A00" if family == "Anima" else "TXT"
    assert placed.blocks == {key: block}
    assert not host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, f"{block}=0").model.patches


# LBW 129 (the multiplier is ignored).


def test_the_strength_multiplies_the_weight(folder):  # noqa: F811
    model, name = model_of("Qwen-Image"), NAMES["Qwen-Image"][1]
    save_file(tensors := lora_of(model, name), folder / "x.safetensors")
    ours = weights_of(host.load_by_block(model, None, "x.safetensors", 0.5, 1.0, "B00=0.5").model)
    quarter, half = with_core(model, tensors, 0.25), with_core(model, tensors, 0.5)
    for key in ours:
        assert torch.equal(ours[key], (quarter if ".0." in key else half)[key]), key


# Realtime-Lora: |up| |down| over-states the change and ignores alpha.


def test_the_report_counts_alpha_and_the_product(folder):  # noqa: F811
    model = model_of("Krea 2")
    name = NAMES["Krea 2"][1]
    tensors = lora_of(model, name, (0,))
    norms = []
    for alpha in (1.0, 4.0):
        save_file(
            tensors | {"lora_unet_blocks_0_mlp_up.alpha": torch.tensor(alpha)}, folder / "x.safetensors"
        )
        norms.append(
            host_report.measured(host_place.place(open_lora("x.safetensors"), model), model, None)["B00"].norm
        )
    up, down = (
        tensors["lora_unet_blocks_0_mlp_up.lora_up.weight"],
        tensors["lora_unet_blocks_0_mlp_up.lora_down.weight"],
    )
    assert norms[0] == pytest.approx(float((up.double() @ down.double()).norm()) / 2, rel=1e-9)
    assert norms[1] == pytest.approx(4 * norms[0], rel=1e-9) and norms[0] < float(up.norm() * down.norm()) / 2


# LoRA-Merger 16 (a saved file does nothing on Z-Image), 20 (garbage on Flux).


@pytest.mark.parametrize(
    ("family", "place"), [("Z-Image", 3), ("Z-Image", 0), ("Flux", 1), ("Flux", 2), ("Krea 2", 3)]
)
def test_a_saved_file_does_what_the_live_node_does(folder, family, place):  # noqa: F811
    model, name = model_of(family), NAMES[family][place]
    save_file(lora_of(model, name), folder / "x.safetensors")
    text = f"{name.block.format(1)}=0.5"
    live = weights_of(host.load_by_block(model, None, "x.safetensors", 1.0, 1.0, text).model)
    path, _ = host_report.save_by_block(model, None, "x.safetensors", "loras/y", text, Settings())
    again, base = with_core(model, load_file(path), 1.0), weights_of(model)
    changed = [key for key in live if not torch.equal(live[key], base[key])]
    assert len(changed) == 2
    for key in live:  # one float32 rounding of the weight more, and 1e-6 of the change
        room = 1e-6 * (live[key] - base[key]).norm() + 2e-7 * base[key].norm()
        assert (again[key] - live[key]).norm() <= room, key
