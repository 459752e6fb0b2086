"""Baking a VAE: the whole VAE of the same kind, under any of its names, or an error that says what is wrong."""

from pathlib import Path

import pytest
import torch
from blockwork.merge.errors import MergeError
from blockwork.merge.files import merge_files
from blockwork.tests.support.merge_kit import merge, tensors
from safetensors.torch import load_file, save_file

STAGE = "first_stage_model."
# ComfyUI's name, diffusers' name, shape; as ComfyUI's diffusers_convert maps them.
NAMES = [
    ("encoder.conv_in.weight", "encoder.conv_in.weight", (8, 3, 3, 3)),
    ("encoder.down.0.block.1.conv1.weight", "encoder.down_blocks.0.resnets.1.conv1.weight", (8, 8, 3, 3)),
    ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight", (8, 8, 1, 1)),
    ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias", (8,)),
    ("encoder.mid.block_2.norm1.weight", "encoder.mid_block.resnets.1.norm1.weight", (8,)),
    ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight", (8, 8, 1, 1)),
    ("encoder.norm_out.weight", "encoder.conv_norm_out.weight", (8,)),
    ("decoder.conv_in.weight", "decoder.conv_in.weight", (8, 4, 3, 3)),
    ("decoder.up.3.block.2.conv2.weight", "decoder.up_blocks.0.resnets.2.conv2.weight", (8, 8, 3, 3)),
    ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight", (8, 8, 3, 3)),
    ("decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight", (8, 8, 1, 1)),
    ("decoder.mid.attn_1.norm.bias", "decoder.mid_block.attentions.0.group_norm.bias", (8,)),
    ("decoder.mid.attn_1.k.bias", "decoder.mid_block.attentions.0.key.bias", (8,)),
    ("quant_conv.weight", "quant_conv.weight", (8, 8, 1, 1)),
]  # fmt: skip


def vae(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g).half() for name, _, shape in NAMES}


def diffusers(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {theirs: found[ours] for ours, theirs, _ in NAMES}
    return {key: t[:, :, 0, 0].contiguous() if ".to_" in key and t.ndim == 4 else t for key, t in out.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    for seed, name in enumerate("ab", 1):
        plain = {key: tensor for key, tensor in tensors(seed).items() if not key.startswith(STAGE)}
        save_file(
            {**plain, **{STAGE + key: t for key, t in vae(seed).items()}}, folder / f"{name}.safetensors"
        )
        save_file(plain, folder / f"{name}_bare.safetensors")
    save_file(vae(9), folder / "ldm.safetensors")
    save_file(diffusers(vae(9)), folder / "diff.safetensors")
    save_file({**tensors(9), **{STAGE + k: t for k, t in vae(9).items()}}, folder / "whole.safetensors")
    save_file(
        {**vae(9), "loss.logvar": torch.zeros(()), "model_ema.x": torch.zeros(2)},
        folder / "trained.safetensors",
    )
    return folder


@pytest.mark.parametrize("source", ["ldm", "diff", "whole", "trained"])
@pytest.mark.parametrize("a", ["a", "a_bare"])
def test_any_form_of_one_vae_bakes_the_same_tensors(folder: Path, source: str, a: str):
    found = merge(folder, f"o = {a} + b, 0, vae={source}")
    before = load_file(folder / "a.safetensors")
    assert set(found) == set(before)
    for key, tensor in vae(9).items():
        assert torch.equal(found[STAGE + key], tensor), key
    assert torch.equal(found["betas"], before["betas"])


def without(*names: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in vae(9).items() if not key.startswith(names)}


WRONG = {
    "betas": ({"betas": torch.ones(3), "alphas_cumprod": torch.ones(3)}, "contains no VAE"),
    "marker": ({"v_pred": torch.zeros(0)}, "contains no VAE"),
    "lora": ({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, "is a LoRA"),
    "text": ({"text_model.embeddings.token_embedding.weight": torch.ones(4, 8)}, "contains no VAE"),
    "unet": ({"input_blocks.0.0.weight": torch.ones(8, 4, 3, 3)}, "contains no VAE"),
    "decoder": (without("encoder."), "not a whole VAE: it has no encoder"),
    "encoder": (without("decoder."), "not a whole VAE: it has no decoder"),
    "sixteen": (
        {**vae(9), "decoder.conv_in.weight": torch.ones(8, 16, 3, 3)},
        "does not fit|16 latent channels",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("a", ["a", "a_bare"])
def test_what_is_not_a_whole_fitting_vae_is_refused(folder: Path, tmp_path: Path, kind: str, a: str):
    content, told = WRONG[kind]
    save_file(content, tmp_path / f"{kind}.safetensors")
    with pytest.raises(MergeError, match=told):
        merge_files(f"o = {a} + b, 0.5, vae={kind}", tmp_path / "o", folders=[folder, tmp_path])


def test_a_part_of_a_vae_is_never_mixed_with_a(folder: Path, tmp_path: Path):
    save_file(without("decoder.up.1."), tmp_path / "part.safetensors")
    with pytest.raises(MergeError, match="lacks 1 tensors"):
        merge_files("o = a + b, 0.5, vae=part", tmp_path / "o", folders=[folder, tmp_path])
    save_file({**vae(9), "decoder.more.weight": torch.ones(2)}, tmp_path / "more.safetensors")
    with pytest.raises(MergeError, match="has 1 tensors"):
        merge_files("o = a + b, 0.5, vae=more", tmp_path / "o", folders=[folder, tmp_path])


def test_the_names_are_those_of_comfyui(tmp_path: Path):
    """Every tensor of a whole diffusers VAE is renamed as core's table does (four levels, three resnets going up)."""
    from blockwork.merge.files.checkpoint import TensorCheckpoint
    from blockwork.merge.files.vae import _tensors

    theirs = {
        f"encoder.down_blocks.{i}.resnets.{j}.norm2.bias": f"encoder.down.{i}.block.{j}.norm2.bias"
        for i in range(4)
        for j in range(2)
    }
    theirs |= {
        f"decoder.up_blocks.{i}.resnets.{j}.conv_shortcut.bias": f"decoder.up.{3 - i}.block.{j}.nin_shortcut.bias"
        for i in range(4)
        for j in range(3)
    }
    theirs |= {
        f"decoder.up_blocks.{i}.upsamplers.0.conv.bias": f"decoder.up.{3 - i}.upsample.conv.bias"
        for i in range(3)
    }
    theirs |= {
        f"{side}.mid_block.resnets.{i}.conv1.bias": f"{side}.mid.block_{i + 1}.conv1.bias"
        for i in range(2)
        for side in ("encoder", "decoder")
    }
    theirs |= {
        "decoder.mid_block.attentions.0.proj_attn.bias": "decoder.mid.attn_1.proj_out.bias",
        "post_quant_conv.bias": "post_quant_conv.bias",
    }
    file = TensorCheckpoint.of("v", {"alone." + key: torch.zeros(2) for key in theirs})
    assert {key.removeprefix("alone."): name for name, key, _ in _tensors(file)} == theirs
