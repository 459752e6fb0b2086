"""The metadata of a merged file: the recipe, hashes of its sources, versions, and what other tools read.

==========================  =============================================================================
``blockwork_recipe``        the recipe as text, with a ``pin`` line (sha256) for every source
``blockwork_versions``      JSON: pack, engine (raised when the same recipe would give other bytes), torch, cpu
``blockwork_a.*``           A's own metadata, where it is not carried over as it is
``modelspec.*``             carried over from A, with title and merged_from of this file
``sd_merge_recipe``         AUTOMATIC1111's schema, as its merger and supermerger write it
``sd_merge_models``
==========================  =============================================================================

No dates and no absolute paths: the same recipe on the same files gives the same bytes with the same versions.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from pathlib import Path

import torch

from ...blocks.keys import CHECKPOINT
from ...blocks.names import INPUT_BLOCKS, Layout
from ..recipe.grammar import Line, Recipe, to_text
from .checkpoint import FileCheckpoint
from .header import Entry

ENGINE = 2
RECIPE, VERSIONS, FROM_A = "blockwork_recipe", "blockwork_versions", "blockwork_a."


def describe(
    recipe: Recipe,
    line: Line,
    first: FileCheckpoint,
    files: Mapping[str, FileCheckpoint],
    layout: Layout,
    hashes: Sequence[str],
) -> dict[str, str]:
    """The metadata of the result of ``line``, whose A is ``first``; ``hashes`` are the sha256 of ``files``."""
    named = dict(zip(files, hashes, strict=True))
    spec = _modelspec(line, first, files, layout)
    return {
        "format": "pt",
        RECIPE: to_text(recipe.pinned(named)),
        VERSIONS: json.dumps(versions()),
        **spec,
        "sd_merge_recipe": json.dumps(_a1111_recipe(line, recipe, named)),
        "sd_merge_models": json.dumps(_a1111_models(files, named)),
        **{
            f"{FROM_A}{key}": value
            for key, value in first.metadata.items()
            if not key.startswith(FROM_A) and spec.get(key) != value  # A's own A is in A; nothing twice
        },
    }


@cache
def versions() -> dict[str, object]:
    """Versions of the pack, of the merge engine and of torch, and the vector instructions torch uses here.

    The last because sums are taken in another order with wider vectors, so that some methods round differently.
    """
    project = Path(__file__).parents[2] / "pyproject.toml"
    found = re.search(r'^version = "(.+)"', project.read_text("utf-8"), re.M) if project.is_file() else None
    return {
        "pack": found.group(1) if found else "unknown",
        "engine": ENGINE,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _modelspec(
    line: Line, first: FileCheckpoint, files: Mapping[str, FileCheckpoint], layout: Layout
) -> dict[str, str]:
    kept = {key: value for key, value in first.metadata.items() if key.startswith("modelspec.")}
    kept.pop("modelspec.hash_sha256", None)  # of A's tensors, not of these
    kept.setdefault("modelspec.sai_model_spec", "1.0.0")
    if architecture := architecture_of(first.entries, layout):
        kept.setdefault("modelspec.architecture", architecture)
        kept.setdefault("modelspec.implementation", "https://github.com/Stability-AI/generative-models")
    kept["modelspec.title"] = line.output
    kept["modelspec.merged_from"] = ", ".join(files)
    return kept


def architecture_of(keys: Mapping[str, Entry], layout: Layout) -> str:
    """The modelspec name of a Stable Diffusion checkpoint, or nothing where the tensors do not show it.

    A file without a text encoder is not a checkpoint. SD2 without prediction type (512 or 768-v) has no name. Names
    as in SwarmUI's model classes and ComfyUI's CheckpointSave.
    """
    convolution = keys.get(f"{CHECKPOINT}{INPUT_BLOCKS}.0.0.weight")
    channels = convolution.shape[1] if convolution and len(convolution.shape) == 4 else 0

    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in keys)

    if layout.name == "sdxl" and has("conditioner.embedders.1."):
        family, plain = "stable-diffusion-xl-v1", "-base"
    elif layout.name == "sd1" and has("conditioner.embedders.0.model.") and has(f"{CHECKPOINT}label_emb."):
        family, plain = "stable-diffusion-xl-v1", "-refiner"
    elif layout.name == "sd1" and has("cond_stage_model.model.", "conditioner.embedders.0.model."):
        family, plain = "stable-diffusion-v2", None
    elif layout.name == "sd1" and has("cond_stage_model."):
        family, plain = "stable-diffusion-v1", ""
    else:
        return ""
    ending = {4: plain, 8: "-edit", 9: "-inpainting"}.get(channels)
    return "" if ending is None else family + ending


def _a1111_recipe(line: Line, recipe: Recipe, hashes: Mapping[str, str]) -> dict[str, object]:
    bound = dict(recipe.variables)
    ranks = ("primary", "secondary", "tertiary")
    models = {
        f"{rank}_model_hash": hashes.get(bound.get(name, name))
        for rank, name in zip(ranks, line.models, strict=False)
    }
    ratios = dict(line.ratios)
    return {
        "type": "blockwork",
        **{f"{rank}_model_hash": None for rank in ranks},
        **models,
        "interp_method": line.method,
        "multiplier": ratios.get("alpha", ratios),
        "save_as_half": line.dtype == "fp16",
        "custom_name": line.output,
        "bake_in_vae": line.vae or "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }


def _a1111_models(files: Mapping[str, FileCheckpoint], hashes: Mapping[str, str]) -> dict[str, object]:
    """Every source by its sha256, and the sources of sources."""
    models: dict[str, object] = {}
    for name, file in files.items():
        own = file.metadata.get("sd_merge_recipe")
        models[hashes[name]] = {
            "name": name,
            "legacy_hash": file.legacy_hash,
            "sd_merge_recipe": _json(own) if own else None,
        }
    for file in files.values():
        inherited = _json(file.metadata.get("sd_merge_models", "{}"))
        if isinstance(inherited, dict):
            for digest, model in inherited.items():
                models.setdefault(digest, model)
    return models


def _json(text: str) -> object:
    try:
        found = json.loads(text)
        json.dumps(
            reduce(lambda inner, _: [inner], range(50), found), allow_nan=False
        )  # strict, and not too deep
    except (ValueError, RecursionError):
        return text
    return found
