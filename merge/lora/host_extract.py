"""Making LoRA files: from the difference of two models, and from two LoRAs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ...blocks.keymap import block_of
from ...blocks.keys import MODEL
from ...blocks.names import NO_LAYOUT
from ..compare.host import patched
from ..errors import MergeError
from ..live.host_quantised import check_smoothing
from .factor import error, factors, relative, truncated
from .host import Settings, block_weights, some, weight_of
from .host_files import open_lora, write
from .host_place import Placed, layout_of_model, place

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def extract(
    model: Any, base: Any, prefix: str, rank: int, energy: float, dtype: str, key_map: str = "mbw"
) -> tuple[Path, str]:
    """Write ``model - base`` as a LoRA, layer by layer; the report gives the error per block.

    Matrices and kernels become low-rank factors, vectors full differences. MergeError when nothing differs.
    """
    check_smoothing([model, base], MODEL)
    tuned, plain = patched("tuned", model), patched("base", base)
    layout = layout_of_model(model)
    shared = [key for key in tuned.entries if key in plain.entries]
    odd = [key for key in shared if tuned.entries[key].shape != plain.entries[key].shape]
    if odd or not shared:
        raise MergeError(
            f"The models do not match: {len(odd)} tensors have other shapes, first {odd[0]}."
            if odd
            else "The models have no tensors in common. Connect a model and the base that it was trained from."
        )
    out: dict[str, torch.Tensor] = {}
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    bar = comfy.utils.ProgressBar(len(shared))
    for key in shared:
        comfy.model_management.throw_exception_if_processing_interrupted()
        shape = tuned.entries[key].shape
        difference = (tuned.read(key).float() - plain.read(key).float()).view(shape)
        bar.update(1)
        if not difference.any():
            continue
        if not difference.isfinite().all():
            raise MergeError(
                f"The difference of {key} holds NaN or infinity. Models with finite numbers are expected. "
                "Use another model or base."
            )
        block = (block_of(key, layout, key_map) if layout is not NO_LAYOUT else None) or "no block"
        squares = _put(out, key, difference, rank, energy, DTYPES[dtype])
        sums[block] = [a + b for a, b in zip(sums[block], (*squares, 1.0), strict=True)]
    if not out:
        raise MergeError("The two models are equal, so there is nothing to extract.")
    path = write(out, prefix, {"blockwork_extract": f"rank {rank}, energy {energy:g}, {dtype}"})
    order = [*layout.blocks, *sorted(set(sums) - set(layout.blocks))]
    lines = [f"{path.name}: {len(out)} tensors, rank at most {rank}, {dtype}."]
    lines += [
        f"  {block:<12} relative error {relative((sums[block][0], sums[block][1])):.4g}  ({int(sums[block][2])} tensors)"
        for block in order
        if block in sums
    ]
    whole = [sum(values[i] for values in sums.values()) for i in range(2)]
    lines.append(f"  {'all':<12} relative error {relative((whole[0], whole[1])):.4g}")
    return path, "\n".join(lines)


def _put(
    out: dict[str, torch.Tensor],
    key: str,
    difference: torch.Tensor,
    rank: int,
    energy: float,
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Enter one layer's difference under the generic names that core reads; squared error and squared norm."""
    if difference.ndim < 2:
        name, kind = (
            (key.removesuffix(".bias"), ".diff_b")
            if key.endswith(".bias")
            else (key.removesuffix(".weight"), ".diff")
        )
        out[name + kind] = difference.to(dtype)
        rest = difference.double() - out[name + kind].double()
        return float(rest.square().sum()), float(difference.double().square().sum())
    name = key.removesuffix(".weight")
    up, down = (factor.to(dtype).contiguous() for factor in factors(difference, rank, energy))
    out[f"{name}.lora_up.weight"], out[f"{name}.lora_down.weight"] = up, down
    out[f"{name}.alpha"] = torch.tensor(float(down.shape[0]))
    return error(difference, up, down)


def merge_loras(
    model: Any,
    clip: Any,
    names: tuple[str, str],
    texts: tuple[str, str],
    prefix: str,
    rank: int,
    dtype: str,
    settings: Settings,
) -> tuple[Path, str]:
    """Write the sum of two LoRAs, each with its block weights; ``rank`` 0 keeps it exact (ranks add).

    MergeError for layers of a type other than LoRA, named.
    """
    parts: defaultdict[Any, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
    differences: dict[Any, torch.Tensor] = {}
    modules: dict[Any, str] = {}
    notes: list[str] = []
    namings: list[Mapping[str, str]] = []
    for name, text in zip(names, texts, strict=True):
        placed = place(open_lora(name), model, clip, settings.key_map)
        namings.append(placed.naming or {})
        weights, elemental = block_weights(placed, text, settings)
        if placed.not_loaded:
            notes.append(
                f"{len(placed.not_loaded)} tensors of {name} are left out: {some(placed.not_loaded)}."
            )
        modules |= {key: module for module, key in _generic_first(placed)}
        for key, patch in placed.patches.items():
            weight = weight_of(placed, key, weights, elemental)
            if not weight:
                continue
            if isinstance(patch, tuple) and patch[0] == "diff":
                difference = patch[1][0].float() * weight
                differences[key] = differences[key] + difference if key in differences else difference
                continue
            values: Any = getattr(patch, "weights", ())
            if getattr(patch, "name", "") != "lora" or any(part is not None for part in values[3:6]):
                raise MergeError(
                    f"{name}: the layer {key} is of type {getattr(patch, 'name', type(patch).__name__)}, which has no sum of "
                    "low rank. Set its block to 0, or merge both LoRAs into the model and use Extract LoRA."
                )
            up, down, alpha = values[:3]
            scale = weight * (1.0 if alpha is None else alpha / down.shape[0])
            parts[key].append((up.float().flatten(1) * scale, down.float().flatten(1)))
    _check_naming(names, namings)
    out: dict[str, torch.Tensor] = {}
    for key, found in parts.items():
        up, down = torch.cat([u for u, _ in found], 1), torch.cat([d for _, d in found], 0)
        if key in differences:  # core reads one or the other of a layer
            differences[key] = differences[key] + (up @ down).view(differences[key].shape)
            continue
        if rank:
            up, down = truncated(up, down, rank)
        name = modules[key]
        out[f"{name}.lora_up.weight"] = up.to(DTYPES[dtype]).contiguous()
        out[f"{name}.lora_down.weight"] = down.to(DTYPES[dtype]).contiguous()
        out[f"{name}.alpha"] = torch.tensor(float(down.shape[0]))
    for key, difference in differences.items():
        if key in modules:
            name, kind = modules[key], ".diff"
        else:  # core makes the key of a bias from that of its weight
            name, kind = modules[key.removesuffix(".bias") + ".weight"], ".diff_b"
        out[name + kind] = difference.to(DTYPES[dtype])
    if not out:
        raise MergeError(
            "All blocks of both LoRAs have weight 0, so nothing is left to save. Raise a weight."
        )
    path = write(out, prefix, {"blockwork_merge": f"{names[0]} [{texts[0]}] + {names[1]} [{texts[1]}]"})
    ranks = [tensor.shape[0] for name, tensor in out.items() if name.endswith(".lora_down.weight")]
    layers = f"{path.name}: {len(parts.keys() | differences.keys())} layers, rank {min(ranks, default=0)} to {max(ranks, default=0)}."
    return path, "\n".join([layers, *notes])


def _check_naming(names: tuple[str, str], namings: Sequence[Mapping[str, str]]) -> None:
    """MergeError where two files name the same layers in other ways, which only a model can match."""
    first, second = namings
    if bool(first) != bool(second) or any(first[row] != second[row] for row in first.keys() & second.keys()):
        ways = " and ".join(next(iter(naming.values()), "other names") for naming in namings)
        raise MergeError(
            f"{names[0]} and {names[1]} name their layers in different ways ({ways}). Without a model, files of one naming are "
            "expected. Connect the model that both LoRAs are for."
        )


def _generic_first(placed: Placed):
    """Core's names, those in ComfyUI's generic form last, so that they are the ones kept."""
    return sorted(placed.names.items(), key=lambda item: item[0].startswith((MODEL, "text_encoders.")))
