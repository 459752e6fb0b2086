"""Small checkpoints with the real key names, for the tests of file merges."""

import hashlib
from pathlib import Path

import torch
from blockwork.merge.files.run import merge_files
from safetensors.torch import load_file, save_file

IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
UNET = "model.diffusion_model."


def tensors(seed: int, dtype=torch.float16, width: int = 4) -> dict[str, torch.Tensor]:
    """A checkpoint with a tensor or two per block."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g).to(dtype)

    found = {UNET + "input_blocks.0.0.weight": draw(320, width, 3, 3)}
    for number in range(1, 12):
        found[UNET + f"input_blocks.{number}.1.transformer_blocks.0.attn2.to_q.weight"] = draw(48, 64)
    for number in range(12):
        found[UNET + f"output_blocks.{number}.0.in_layers.2.weight"] = draw(16, 32, 3, 3)
        found[UNET + f"output_blocks.{number}.0.in_layers.2.bias"] = draw(16)
    found[UNET + "middle_block.1.proj_in.weight"] = draw(200, 300)
    found[UNET + "time_embed.0.weight"] = draw(64, 32)
    found[UNET + "out.2.weight"] = draw(4, 32, 3, 3)
    found["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = draw(300, 64)
    found["first_stage_model.decoder.conv_in.weight"] = draw(16, 4, 3, 3)
    found["model_ema.diffusion_modeloutweight"] = draw(9)
    found["model_ema.diffusion_modelout2weight"] = draw(4, 32, 3, 3)
    found["betas"] = torch.linspace(0, 1, 1000)
    found[IDS] = torch.arange(77)[None]
    return found


def three_files(folder: Path) -> Path:
    """a, b and c.safetensors, each with metadata."""
    for seed, name in enumerate("abc", 1):
        metadata = {"format": "pt", "author": f"maker of {name}"}
        save_file(tensors(seed), folder / f"{name}.safetensors", metadata=metadata)
    return folder


def merge(folder: Path, recipe: str, name: str = "out", **kwargs) -> dict[str, torch.Tensor]:
    return load_file(merge_files(recipe, folder / name, folders=[folder], overwrite=True, **kwargs).path)


def same(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)


def unet(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in found.items() if key.startswith(UNET)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
