"""Random models of several kinds and merges of them with known shares, for Find Recipe."""

from collections.abc import Callable

import numpy as np
import torch
from blockwork.merge import find
from blockwork.merge.files.checkpoint import TensorCheckpoint

UNET = "model.diffusion_model."
Tensors = dict[str, torch.Tensor]
OUTSIDE = {
    "CLIP": ["cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"],
    "VAE": ["first_stage_model.decoder.conv_in.weight"],
}


def unet_keys(count: int) -> dict[str, list[str]]:
    found = {
        f"IN{i:02}": [UNET + f"input_blocks.{i}.0.weight", UNET + f"input_blocks.{i}.0.bias"]
        for i in range(count)
    }
    found["M00"] = [UNET + "middle_block.1.proj_in.weight"]
    found |= {f"OUT{i:02}": [UNET + f"output_blocks.{i}.0.weight"] for i in range(count)}
    return found | OUTSIDE


def flux_keys() -> dict[str, list[str]]:
    found = {
        f"D{i:02}": [
            UNET + f"double_blocks.{i}.img_attn.qkv.weight",
            UNET + f"double_blocks.{i}.img_mlp.0.bias",
        ]
        for i in range(5)
    }
    found |= {f"S{i:02}": [UNET + f"single_blocks.{i}.linear1.weight"] for i in range(20)}
    return found | {"IN": [UNET + "img_in.weight"], "OUT": [UNET + "final_layer.linear.weight"]}


def z_image_keys() -> dict[str, list[str]]:
    counts = {"CR": ("context_refiner", 2), "NR": ("noise_refiner", 2), "B": ("layers", 30)}
    return {
        f"{letter}{i:02}": [UNET + f"{stack}.{i}.attention.qkv.weight"]
        for letter, (stack, count) in counts.items()
        for i in range(count)
    }


KINDS: dict[str, Callable[[], dict[str, list[str]]]] = {
    "sd1": lambda: unet_keys(12),
    "sdxl": lambda: unet_keys(9),
    "klein_4b": flux_keys,
    "z_image": z_image_keys,
}


def parents(kind: str, count: int, dtype: torch.dtype, near: float = 0.15) -> list[Tensors]:
    """A base and fine-tunes of it, which differ from it by ``near`` of its length."""
    g = torch.Generator().manual_seed(count)
    keys = [key for keys in KINDS[kind]().values() for key in keys]
    base = {key: torch.randn(64 if key.endswith("bias") else 8192, generator=g) * 0.05 for key in keys}
    models = [base]
    for _ in range(count - 1):
        models.append({key: x + near * 0.05 * torch.randn(x.shape, generator=g) for key, x in base.items()})
    return [{key: x.to(dtype) for key, x in model.items()} for model in models]


def drawn(kind: str, count: int, seed: int = 5) -> dict[str, np.ndarray]:
    """Random shares with sum one per block."""
    rng = np.random.default_rng(seed)
    return {block: rng.dirichlet(np.ones(count)) for block in KINDS[kind]()}


def once(tensors: list[torch.Tensor], shares: np.ndarray) -> torch.Tensor:
    """supermerger's formula: the sum in float32, rounded once."""
    total = sum(float(share) * x.float() for share, x in zip(shares, tensors, strict=True))
    return total.to(tensors[0].dtype)  # pyright: ignore[reportAttributeAccessIssue]


def each_step(tensors: list[torch.Tensor], shares: np.ndarray) -> torch.Tensor:
    """Every product and sum rounded to the data type, as a merge in half precision does."""
    total = tensors[0] * float(shares[0])
    for share, x in zip(shares[1:], tensors[1:], strict=True):
        total = total + x * float(share)
    return total


def merged(kind: str, models: list[Tensors], shares: dict[str, np.ndarray], formula=once) -> Tensors:
    return {
        key: formula([model[key] for model in models], shares[block])
        for block, keys in KINDS[kind]().items()
        for key in keys
    }


def found_in(merge: Tensors, models: list[Tensors]) -> find.Found:
    checkpoints = [TensorCheckpoint.of(name, x) for name, x in zip("ABCDEFG", models, strict=False)]
    return find.find_recipe(TensorCheckpoint.of("M", merge), checkpoints)


def furthest(found: find.Found, shares: dict[str, np.ndarray]) -> float:
    assert found.blocks.keys() == shares.keys()
    return max(float(np.abs(np.array(found.blocks[block].shares) - shares[block]).max()) for block in shares)
