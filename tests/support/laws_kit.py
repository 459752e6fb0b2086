"""Tiny models of several layouts, weight texts with what they name, and merges of them: for the laws of the planner."""

from collections.abc import Mapping, Sequence

import torch
from blockwork.merge.files.checkpoint import Checkpoint, TensorCheckpoint
from blockwork.merge.files.merged import MergedCheckpoint
from blockwork.merge.methods import METHODS, Method
from blockwork.merge.recipe.model import Line
from torch import Tensor

UNET = "model.diffusion_model."


def _unet(inputs: int, outputs: int, **extra: str) -> dict[str, str]:
    last = f"OUT{outputs - 1:02}"
    keys = {
        "input_blocks.0.0.weight": "IN00",
        "time_embed.0.weight": "IN00",
        "middle_block.1.proj_in.weight": "M00",
    }
    keys |= {f"input_blocks.{n}.1.norm.weight": f"IN{n:02}" for n in range(1, inputs)}
    keys |= {f"output_blocks.{n}.0.in_layers.2.weight": f"OUT{n:02}" for n in range(outputs)}
    return keys | {"out.2.weight": last} | extra


# Layout -> key below the diffusion model -> the name that weights it under key_map mbw, by hand.
LAYOUTS = {
    "sd1": _unet(12, 12),
    "sd2": _unet(12, 12, **{"label_emb.0.0.weight": "BASE"}),
    "sdxl": _unet(9, 9, **{"label_emb.0.0.weight": "BASE"}),
    "flux": {
        **{f"double_blocks.{n}.img_attn.qkv.weight": f"D{n:02}" for n in range(3)},
        **{f"single_blocks.{n}.modulation.lin.weight": f"S{n:02}" for n in range(4)},
        "img_in.weight": "IN",
        "txt_in.weight": "TXT",
        "final_layer.linear.weight": "OUT",
    },
    "qwen": {
        **{f"transformer_blocks.{n}.attn.to_q.weight": f"B{n:02}" for n in range(5)},
        "img_in.weight": "IN",
        "time_text_embed.timestep_embedder.linear_1.weight": "IN",
        "txt_in.weight": "TXT",
        "proj_out.weight": "OUT",
    },
}
OUTSIDE = {
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": "CLIP",
    "cond_stage_model.transformer.text_model.embeddings.position_ids": "never",
    "first_stage_model.decoder.conv_in.weight": "VAE",
    "model_ema.diffusion_modelx": "never",
    "betas": "never",
}
FOLLOW_BASE = ("CLIP", "IN", "TXT", "OUT")  # names outside the blocks that a weight of BASE counts for
SHAPES = {"input_blocks.0.0.weight": (4, 4, 3, 3)}


def names(layout: str) -> dict[str, str]:
    """Every key of a checkpoint of this layout -> the name that weights it."""
    return {UNET + key: name for key, name in LAYOUTS[layout].items()} | OUTSIDE


def blocks(layout: str) -> list[str]:
    """The blocks of the layout in the order of a weight list."""
    unique = dict.fromkeys(name for name in LAYOUTS[layout].values() if name not in ("BASE", *FOLLOW_BASE))
    first = [name for name in unique if not name.startswith(("M", "OUT"))]
    return [*first, *(["M00"] if "M00" in unique else []), *sorted(n for n in unique if n.startswith("OUT"))]


def model(layout: str, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A checkpoint with one small tensor per key."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for key in names(layout):
        values = torch.randn(SHAPES.get(key.removeprefix(UNET), (6, 5)), generator=g)
        found[key] = torch.arange(77)[None] if key.endswith("position_ids") else values.to(dtype)
    return found


def forms(layout: str) -> dict[str, set[str]]:
    """Weight texts of every form -> the names they give a number, and those that follow."""
    order = blocks(layout)
    some = ", ".join(f"0.{1 + n % 9}" for n in range(len(order)))
    everything = {*order, "BASE", *FOLLOW_BASE}
    outside = everything - set(order)
    return {
        f"{order[1]}=0.5": {order[1]},
        f"{order[0]}-{order[2]}=0.25, {order[2]}=0.5": set(order[:3]),
        some: set(order),
        f"0.5, {some}": everything,
        f"0.5, {some}, 0.25": everything | {"VAE"},
        "0.5": everything,
        "0.5, VAE=0.5": everything | {"VAE"},
        "BASE=0.5": outside,
        "CLIP=0.5": {"CLIP"},
        "VAE=0.5": {"VAE"},
        f"GRAD_V, {order[0]}=0.5" if layout.startswith("sd") else f"ALL=0.25, {order[0]}=0.5": set(order),
    }


def sources(method: Method, layout: str, dtype: torch.dtype = torch.float16) -> list[dict[str, Tensor]]:
    """As many models as the method takes, three where it takes any number."""
    return [model(layout, seed, dtype) for seed in range(method.most or max(method.least, 3))]


def texts(method: Method, text: str) -> tuple[tuple[str, str], ...]:
    """The same text for every ratio; ``each`` gets its second from the first."""
    ratios = method.ratios if not method.complement else method.complement[1:]
    return tuple((name, text) for name in ratios)


def line(name: str, text: str, count: int, **settings) -> Line:
    """A line that merges ``count`` models by a method with one text."""
    ratios = settings.pop("ratios", None) or texts(METHODS[name], text)
    models = tuple("abcdefg"[:count])
    return Line("o", models, name, ratios, **settings)


def merged(done: Line, models: Sequence[Mapping[str, Tensor]] | Sequence[Checkpoint]) -> MergedCheckpoint:
    """The result of a line, ready to be read."""
    given = [
        TensorCheckpoint.of("abcdefg"[i], model) if isinstance(model, Mapping) else model
        for i, model in enumerate(models)
    ]
    result = MergedCheckpoint(done, given)
    result.prepare()
    return result


def read(result: MergedCheckpoint) -> dict[str, Tensor]:
    """Every tensor of a result."""
    return {key: result.read(key).view(entry.shape) for key, entry in result.entries.items()}


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Equal to the bit: dtype, shape, and negative zeros too."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return torch.equal(
        x.contiguous().reshape(-1).view(torch.uint8), y.contiguous().reshape(-1).view(torch.uint8)
    )
