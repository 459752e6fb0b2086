"""Small random T5, stage I, II and III files in the released formats, for tests, demos and benchmarks.

No weights travel with the pack; what these networks draw is noise, but every shape, key and code path is
the released models': heads of 64 channels, T5 v1.1 keys, DeepFloyd's or diffusers' names.
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...tools.refhost.pack import load_pack

TEXT_DIM = 64
OUTPUT_SCALE = 0.3  # random networks are chaotic over many steps; a quieter head keeps them tame

T5_FILE = "t5_small.safetensors"
STAGE_FILES = {
    "I": "if_stage1.safetensors",
    "II": "if_stage2.safetensors",
    "III": "if_stage3.safetensors",
}


def cascade_room(module: str):
    """A module of the cascade, whatever the pack is called here."""
    return importlib.import_module(f"{load_pack().__name__}.cascade.{module}")


def stage_config(stage: str, text_dim: int = TEXT_DIM):
    """A small ``UNetConfig`` of stage ``"I"``, ``"II"`` or ``"III"``."""
    make = cascade_room("unet_config").UNetConfig
    common = dict(out_channels=6, text_dim=text_dim, context_dim=64, projects_text=True)
    if stage == "I":
        return make(
            in_channels=3, widths=(64, 128), layers=(1, 1), attention=("none", "joint"),
            middle_attention="joint", time_dim=128, super_resolution=False, **common,
        )  # fmt: skip
    widths, layers = ((32, 64, 64), (1, 1, 1)) if stage == "II" else ((32, 32, 32, 64), (1, 1, 1, 1))
    return make(
        in_channels=6, widths=widths, layers=layers, attention=("none",) * (len(widths) - 1) + ("text",),
        middle_attention="text", time_dim=64, super_resolution=True, **common,
    )  # fmt: skip


def stage_state_dict(config, seed: int = 0, output_scale: float = OUTPUT_SCALE) -> dict[str, torch.Tensor]:
    """Random weights of a stage under diffusers' keys, no layer zero, the output head quieted."""
    unet = cascade_room("unet").PixelUNet(config, device="meta")
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for key, like in unet.state_dict().items():
        noise = torch.randn(like.shape, generator=generator)
        if like.ndim == 1:
            norm = "norm" in key and key.endswith("weight")
            out[key] = 1 + 0.1 * noise if norm else 0.1 * noise
        else:
            out[key] = noise / like[0].numel() ** 0.5
        if key.startswith("conv_out"):
            out[key] *= output_scale
    return out


def t5_state_dict(
    dim: int = TEXT_DIM, layers: int = 2, heads: int = 4, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random weights of a T5 v1.1 encoder under its released keys."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float | None = None) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if scale is None else scale)

    out = {"shared.weight": random(32128, dim, scale=1.0)}
    for block in range(layers):
        prefix = f"encoder.block.{block}.layer"
        for name in "qkv":
            out[f"{prefix}.0.SelfAttention.{name}.weight"] = random(dim, dim)
        out[f"{prefix}.0.SelfAttention.o.weight"] = random(dim, dim)
        if block == 0:
            out[f"{prefix}.0.SelfAttention.relative_attention_bias.weight"] = random(32, heads, scale=1.0)
        out[f"{prefix}.0.layer_norm.weight"] = 1 + 0.1 * random(dim, scale=1.0)
        for name, shape in (("wi_0", (2 * dim, dim)), ("wi_1", (2 * dim, dim)), ("wo", (dim, 2 * dim))):
            out[f"{prefix}.1.DenseReluDense.{name}.weight"] = random(*shape)
        out[f"{prefix}.1.layer_norm.weight"] = 1 + 0.1 * random(dim, scale=1.0)
    out["encoder.final_layer_norm.weight"] = 1 + 0.1 * random(dim, scale=1.0)
    return out


def make_files(models: Path, original: bool = True, dtype: torch.dtype = torch.float16) -> None:
    """Write the four files below a ComfyUI ``models`` folder, where core looks for them; skip what stands.

    ``original`` False writes diffusers' keys.
    """
    to_original = cascade_room("keys").to_original
    encoders, stages = models / "text_encoders", models / "diffusion_models"
    _save(t5_state_dict(), encoders / T5_FILE, dtype)
    for index, (stage, name) in enumerate(STAGE_FILES.items()):
        state_dict = stage_state_dict(stage_config(stage), seed=index)
        _save(to_original(state_dict) if original else state_dict, stages / name, dtype)


def _save(state_dict: dict[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".tmp")
    save_file({key: tensor.to(dtype).contiguous() for key, tensor in state_dict.items()}, half)
    half.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, help="a ComfyUI models folder")
    parser.add_argument(
        "--diffusers", action="store_true", help="write diffusers' keys instead of DeepFloyd's"
    )
    arguments = parser.parse_args()
    make_files(arguments.models, original=not arguments.diffusers)
    sys.stdout.write(f"made {T5_FILE}, {', '.join(STAGE_FILES.values())} below {arguments.models}\n")
