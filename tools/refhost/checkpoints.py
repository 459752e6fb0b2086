"""Makes checkpoints with seeded random weights, in the published layouts, for the demo, tests and benchmarks.

They prove plumbing, not taste: shapes, key names and dtypes are those of real files, so that core's
CheckpointLoaderSimple loads them, and every activation stays finite. Needs torch and ComfyUI on the path
(``refhost.pack.use_comfyui``).
"""

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

POOL = 1 << 24  # random numbers drawn once per file; every tensor is a stretch of them, scaled
VAE_CONFIG = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A shape of checkpoint: which of core's model classes, how wide each level, with a text encoder or not."""

    family: str
    channel_mult: tuple[int, ...]
    in_channels: int = 4
    text: bool = True


SD15 = Kind("SD15", (1, 2, 4, 4))
SD15_SMALL = Kind("SD15", (1, 1, 1, 1))  # 111 M parameters in the U-Net, still detected as SD1
SD15_SMALL_INPAINT = Kind("SD15", (1, 1, 1, 1), in_channels=9)
SDXL_SMALL = Kind("SDXL", (1, 1, 1))
SDXL_SMALL_UNET = Kind("SDXL", (1, 1, 1), text=False)

# File stem -> what stands in it. The small ones are what example workflows and server tests name.
CATALOGUE: dict[str, tuple[Kind, int]] = {
    "sd15_a": (SD15_SMALL, 1),
    "sd15_b": (SD15_SMALL, 2),
    "sd15_c": (SD15_SMALL, 3),
    "sd15_inpaint": (SD15_SMALL_INPAINT, 4),
    "sdxl_a": (SDXL_SMALL, 5),
    "sdxl_b": (SDXL_SMALL_UNET, 6),
    "sd15_full_a": (SD15, 11),  # 2.13 GB each, for the demo and the benchmarks
    "sd15_full_b": (SD15, 12),
}

# Released files that example workflows name, and the small checkpoints that stand in for them.
STAND_INS = {
    "sd15_a": "v1-5-pruned-emaonly-fp16",
    "sd15_b": "DreamShaper_8_pruned",
    "sdxl_a": "sd_xl_base_1.0",
}


def make(path: Path, kind: Kind, seed: int, dtype: torch.dtype = torch.float16) -> Path:
    """Write ``path`` unless it is there already; the same kind, seed and dtype give the same tensors."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed))
    tensors = {key: _fill(key, like, pool, seed, dtype) for key, like in _shapes(kind).items()}
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, half, metadata={"format": "pt"})
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path


def make_named(names: list[str], base: Path) -> list[Path]:
    """Write the named checkpoints of the catalogue below ``base/models/checkpoints``; those there are kept.

    A checkpoint that stands in for a released file is there under that file's name too.
    """
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise ValueError(f"no such checkpoints: {unknown}; the catalogue has {list(CATALOGUE)}")
    folder = base / "models" / "checkpoints"
    paths = [make(folder / f"{name}.safetensors", *CATALOGUE[name]) for name in names]
    for path in paths:
        released = folder / f"{STAND_INS.get(path.stem, path.stem)}.safetensors"
        if not released.exists():
            released.hardlink_to(path)
    return paths


def _shapes(kind: Kind) -> dict[str, torch.Tensor]:
    """Every key of such a checkpoint with a meta tensor of its shape, by ComfyUI's own classes."""
    import comfy.model_base
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL

    meta = torch.device("meta")
    config = getattr(comfy.supported_models, kind.family)(_unet_config(kind))
    config.set_inference_dtype(torch.float32, None)
    unet = config.get_model({}, device=meta).diffusion_model.state_dict()
    keys = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    vae = AutoencoderKL(embed_dim=4, ddconfig=VAE_CONFIG).to(meta).state_dict()
    keys |= {f"first_stage_model.{key}": value for key, value in vae.items()}
    if kind.text:
        text = _text_encoder(kind.family, meta)
        keys |= config.process_clip_state_dict_for_saving(text)
    for name in ("betas", "alphas_cumprod"):
        keys[name] = torch.empty(1000, device=meta)
    return keys


def _unet_config(kind: Kind) -> dict:
    levels = len(kind.channel_mult)
    config = {
        "image_size": 32, "in_channels": kind.in_channels, "out_channels": 4, "model_channels": 320,
        "num_res_blocks": [2] * levels, "channel_mult": kind.channel_mult, "use_spatial_transformer": True,
        "legacy": False, "use_temporal_attention": False,
    }  # fmt: skip
    if kind.family == "SDXL":
        return config | {
            "context_dim": 2048, "adm_in_channels": 2816, "num_classes": "sequential",
            "use_linear_in_transformer": True, "transformer_depth_middle": 10,
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        }  # fmt: skip
    return config | {
        "context_dim": 768, "adm_in_channels": None, "use_linear_in_transformer": False,
        "transformer_depth_middle": 1,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    }  # fmt: skip


def _text_encoder(family: str, device) -> dict[str, torch.Tensor]:
    from comfy import sd1_clip, sdxl_clip

    model_class = sdxl_clip.SDXLClipModel if family == "SDXL" else sd1_clip.SD1ClipModel
    text = model_class(device=device, dtype=torch.float32).state_dict()
    text["clip_l.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return text


def _fill(key: str, like: torch.Tensor, pool: torch.Tensor, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Values that keep activations near unit variance: 1/sqrt(fan-in) for weights, ones for norms."""
    if key.endswith("position_ids"):
        return torch.arange(77)[None]
    if key in ("betas", "alphas_cumprod"):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return (betas if key == "betas" else (1 - betas).cumprod(0)).float()
    if key.endswith("logit_scale"):
        return torch.tensor(math.log(100.0), dtype=dtype)
    start = zlib.crc32(f"{seed} {key}".encode()) % POOL
    count = like.numel()
    stretches = [pool[start : start + count]]
    while (have := sum(map(len, stretches))) < count:
        stretches.append(pool[: count - have])
    values = torch.cat(stretches).reshape(like.shape)
    if like.ndim >= 2:
        scale = 0.02 if "embedding" in key else 1 / math.sqrt(like[0].numel())
        return (values * scale).to(dtype)
    if key.endswith("weight"):
        return (1 + 0.02 * values).to(dtype)
    return (0.02 * values).to(dtype)
