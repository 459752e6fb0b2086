"""Kinds of source files: weights quantised in unknown forms are refused wherever they come in, prefixes do not matter."""

from pathlib import Path

import pytest
import torch
from blockwork.merge.compare import compare
from blockwork.merge.errors import MergeError
from blockwork.merge.files import merge_files, replay
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.tests.support.merge_kit import UNET, merge, same, tensors, three_files, unet
from safetensors.torch import load_file, save_file

MARKS = [
    "scale_weight",
    "weight_scale",
    "weight_scale_2",
    "comfy_quant",
    "absmax",
    "nested_absmax",
    "quant_map",
    "quant_state.bitsandbytes__nf4",
    "weight_scale_inv",
    "qweight",
    "zero_point",
    "scale_b",
    "SCB",
]
LAYER = UNET + "middle_block.1.proj_in"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return three_files(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("mark", [*MARKS, "codes"])
def test_unknown_forms_of_quantised_weights_are_refused_everywhere(folder: Path, mark: str):
    q = tensors(4)
    if mark == "codes":
        q[LAYER + ".weight"] = torch.zeros(30_000, dtype=torch.uint8)
    else:
        q[f"{LAYER}.{mark}"] = torch.ones(1)
    save_file(q, folder / "q.safetensors")
    for recipe in ("q + a, 0.5", "a + q, 0.5", "a + b + q, 0.5", "a + b, 0.5, vae=q"):
        with pytest.raises(
            MergeError, match=r"q is quantised in a form.*that cannot be read.*Use the fp16, bf16 or"
        ):
            merge_files(f"o = {recipe}", folder / "o", folders=[folder])
    with pytest.raises(MergeError, match="quantised"):
        compare(FileCheckpoint(folder / "a.safetensors"), FileCheckpoint(folder / "q.safetensors"))


def test_scales_of_inputs_alone_are_kept(folder: Path):
    """Files hold them beside weights that are not quantised; they are no weights to merge."""
    marked = {
        UNET + "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        LAYER + ".scale_input": torch.ones(1),
    }
    save_file(tensors(4) | marked, folder / "marked.safetensors")
    found = merge(folder, "o = marked + a, 1")
    assert float(found[LAYER + ".scale_input"]) == 1 and UNET + "scaled_fp8" not in found
    assert torch.equal(found[LAYER + ".weight"], tensors(1)[LAYER + ".weight"])


@pytest.mark.parametrize("prefix", ["", "net.", "model.model.", "model.", "diffusion_model."])
def test_a_diffusion_model_merges_alike_under_any_prefix(tmp_path: Path, prefix: str):
    for seed, name in enumerate("ab", 1):
        whole = unet(tensors(seed))
        save_file(whole, tmp_path / f"{name}.safetensors")
        renamed = {prefix + key.removeprefix(UNET): tensor for key, tensor in whole.items()}
        save_file(renamed, tmp_path / f"{name}2.safetensors")
    options = "alpha=[GRAD_V, BASE=0.3], dtype=bf16, prune=yes, method=dare, seed=3"
    wanted = merge(
        tmp_path,
        f"o = a + b, {options}, alpha=[GRAD_V, BASE=0.3]".replace(", alpha=[GRAD_V, BASE=0.3]", "", 1),
    )
    for recipe in ("a2 + b2", "a + b2", "a2 + b"):
        found = merge(tmp_path, f"o = {recipe}, {options}")
        own = UNET if recipe.startswith("a ") else prefix
        assert all(key.startswith(own) for key in found)
        assert same({UNET + key.removeprefix(own): tensor for key, tensor in found.items()}, wanted)
    likeness = compare(
        FileCheckpoint(tmp_path / "a.safetensors"), FileCheckpoint(tmp_path / "a2.safetensors")
    )
    assert likeness.total().changed == 0 and likeness.total().numel > 100_000
    if prefix:
        assert replay(tmp_path / "out.safetensors", tmp_path / "again", folders=[tmp_path])[1]


def test_text_encoders_and_vaes_alone_are_cast_and_not_pruned(tmp_path: Path):
    kinds = {
        "clip": "text_model.encoder.layers.0.self_attn.k_proj.weight",
        "t5": "encoder.block.0.layer.0.SelfAttention.k.weight",
        "llm": "model.layers.0.self_attn.q_proj.weight",
        "vae": "decoder.conv_in.weight",
        "sd_vae": "decoder.up.0.block.0.conv1.weight",
    }
    for kind, key in kinds.items():
        extra = {"model.embed_tokens.weight": torch.ones(3, 2)} if kind == "llm" else {}
        for name in "ab":
            save_file({key: torch.rand(4, 4), **extra}, tmp_path / f"{name}_{kind}.safetensors")
        found = merge(tmp_path, f"o = a_{kind} + b_{kind}, 0.5, dtype=fp16, prune=yes")
        a, b = (load_file(tmp_path / f"{name}_{kind}.safetensors") for name in "ab")
        assert found.keys() == a.keys() and found[key].dtype == torch.float16
        assert torch.equal(found[key], torch.lerp(a[key], b[key], 0.5).half())
        files = [FileCheckpoint(tmp_path / f"{name}_{kind}.safetensors") for name in "ab"]
        assert compare(*files).total().changed == 16


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        (
            "x",
            ["down_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"],
            "U-Net in the diffusers",
        ),
        ("x", ["single_transformer_blocks.0.attn.to_q.weight"], "transformer in the diffusers format"),
        (
            "x",
            ["time_text_embed.a.weight", "context_embedder.weight", "transformer_blocks.0.a.weight"],
            "transformer in",
        ),
        ("x", ["lora_unet_down_blocks_0.lora_down.weight"], "is a LoRA"),
        ("x", ["diffusion_model.blocks.0.q.lora_A.weight"], "is a LoRA"),
        ("x-00001-of-00003", ["blocks.0.attn.weight"], "part 1 of 3"),
    ],
)
def test_other_forms_are_refused_by_name(tmp_path: Path, name: str, keys: list[str], told: str):
    for file in (name, "other"):
        save_file({key: torch.ones(2, 2) for key in keys}, tmp_path / f"{file}.safetensors")
    with pytest.raises(MergeError, match=told):
        merge_files(f"o = {name} + other, 0.5", tmp_path / "o", folders=[tmp_path])


def test_audio_parts_are_parts(tmp_path: Path):
    keys = [UNET + "input_blocks.0.0.weight", "audio_vae.x", "vocoder.x", "pretransform.model.x", "betas"]
    save_file({key: torch.ones(2, 2) for key in keys}, tmp_path / "a.safetensors")
    found = merge(tmp_path, "o = a, 0.5, dtype=bf16, prune=yes")
    assert set(found) == set(keys[:4]) and {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
