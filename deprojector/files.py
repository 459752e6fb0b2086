"""From a published file to a module and back: family and revision, strict checks."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..blocks.synced import write_synced
from .base import Config, Deprojector
from .config import decoded, parsed, read
from .errors import DeprojectorError
from .families import FAMILIES, TransformerConfig

FAMILY_OF_CONFIG = {family.config_class: family for family in FAMILIES}
CONFIG_OF_TYPE: dict[str, type[Config]] = {
    "clip_text_model": TransformerConfig,  # v1 to v3
    **{family.config_class.model_type: family.config_class for family in FAMILIES},
}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
CONFIG_ENTRY = "blockwork.deprojector"  # metadata of the files we write
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Fields that 443917b and later always write together with relative_to_null.
LATER_FIELDS = {
    "apply_mlp_to_input",
    "relative_to_prev",
    "state_projection",
    "state_weited_sum",
    "residual_wrt_prev",
    "residual_wrt_hidden",
}


def from_state_dict(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Deprojector:
    """The deprojector with these weights, of the family and revision that ``config`` and the keys say.

    The weights are copied; the module gets the widest of their dtypes and is in eval mode. DeprojectorError
    names an unknown field, a missing or unexpected tensor, or one of the wrong size, dtype or value.
    """
    state = {key: value for key, value in state_dict.items() if not _ignored(key, config)}
    module = build(_read_config(state, config))
    _check(module.state_dict(), state)
    dtype = _dtype(state)
    copies = {
        key: value.detach().clone().to(dtype) if value.is_floating_point() else value.detach().clone()
        for key, value in state.items()
    }
    if "position_ids" in module.state_dict():
        copies["position_ids"] = torch.arange(module.config.rows)[None]
    module.load_state_dict(copies, assign=True)
    return module.eval()


def build(config: Config, device: str = "meta") -> Deprojector:
    """An untrained module of that configuration; on ``meta`` it has shapes but no numbers."""
    with torch.device(device):
        return FAMILY_OF_CONFIG[type(config)](config)


def load(path: str | os.PathLike[str]) -> Deprojector:
    """The deprojector in a folder or file.

    A folder holds ``config.json`` and weights; a weight file has its ``config.json`` (or ``<name>.json``)
    beside it, unless it is one of ours, which hold their configuration. Pickles are read with
    ``weights_only=True``. DeprojectorError says what is missing or wrong.
    """
    weights = _weight_file(Path(path))
    try:
        config = _config_near(weights)
        if weights.suffix.lower() == ".safetensors":
            state = load_file(weights)
        else:
            state = _read_pickle(weights)
        return from_state_dict(state, config)
    except SafetensorError as error:
        raise DeprojectorError(
            f"{weights.name} is not a safetensors file, or it is truncated ({error}). Download it again."
        ) from error
    except OSError as error:
        raise DeprojectorError(f"{weights.name} cannot be read ({error.strerror}).") from error
    except DeprojectorError as error:
        raise DeprojectorError(f"{weights.name}: {error}") from error


def save(module: Deprojector, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Path:
    """Write one safetensors file with the configuration in its metadata; the path (suffix corrected).

    ``dtype`` converts the weights. Never overwrites a file; a failed write leaves no file.
    """
    path = Path(path).with_suffix(".safetensors")
    if path.exists():
        raise DeprojectorError(f"{path.name} already exists. Choose another name.")
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for key, value in module.state_dict().items()
    }
    _check_finite(state)
    write(state, path, {CONFIG_ENTRY: json.dumps(published_config(module)), "format": "pt"})
    return path


def write(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name and rename it; a failed write leaves no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write_synced({key: value.contiguous() for key, value in tensors.items()}, scratch, metadata)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def published_config(module: Deprojector) -> dict[str, Any]:
    """The configuration as the author's ``config.json`` spells it: without our own layout fields."""
    config, fields = module.config, module.config.as_json()
    if isinstance(config, TransformerConfig):
        if not config.has_null:
            fields["model_type"] = "clip_text_model"
            del fields["relative_to_null"]
        elif config.embed_second and not config.expand:
            del fields["embed_second"], fields["expand"]
        del fields["has_null"]
    return fields


def _ignored(key: str, config: Mapping[str, Any]) -> bool:
    """What no revision reads: position numbers, an ``expand`` layer not switched on."""
    return key.endswith("position_ids") or (key.startswith("expand.") and not config.get("expand"))


def _read_config(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Config:
    found = next((family for family in FAMILIES if any(key.startswith(family.sign) for key in state)), None)
    named = config.get("model_type")
    if named is not None and named not in CONFIG_OF_TYPE:
        raise DeprojectorError(
            f"config.json: unknown model_type {str(named)[:80]!r}. Available: {', '.join(sorted(CONFIG_OF_TYPE))}."
        )
    if found is None:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise DeprojectorError(f"These are not weights of a deprojector (found {some}, ...).")
    kind = found.config_class
    if named is not None and CONFIG_OF_TYPE[named] is not kind:
        raise DeprojectorError(
            f"config.json says {named!r}, but the weights are those of {kind.model_type!r}: "
            "config.json and weights belong to different models."
        )
    fields = dict(config)
    if kind is TransformerConfig:
        _detect_revision(state, fields)
    return read(kind, fields, len(state))


def _detect_revision(state: Mapping[str, Tensor], fields: dict[str, Any]) -> None:
    """Fill in what revisions of family T left unsaid."""
    fields["has_null"] = "null_embed" in state
    if "diff" in fields:  # 17391c8's word for it
        fields["relative_to_null"] = fields.pop("diff")
    if not fields["has_null"]:
        if fields.get("relative_to_null"):
            raise DeprojectorError("config.json has relative_to_null, but the weights have no null_embed.")
        fields["embed_second"] = False
    elif "relative_to_null" not in fields and not LATER_FIELDS & fields.keys():
        fields["relative_to_null"] = True
    if "relative_to_prev" in fields and "residual_wrt_prev" not in fields:
        # 2d25197 and dc1dd44 add the previous row to the output too; later revisions say so apart
        fields["residual_wrt_prev"] = fields["relative_to_prev"]


def _check(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    expected = {key: value for key, value in expected.items() if not key.endswith("position_ids")}
    _refuse("missing tensor", expected.keys() - given.keys())
    _refuse("unexpected tensor", given.keys() - expected.keys())
    for key, tensor in expected.items():
        if tensor.shape != given[key].shape:
            raise DeprojectorError(
                f"tensor {key}: config.json expects {tuple(tensor.shape)}, the weights have "
                f"{tuple(given[key].shape)}."
            )
        if tensor.is_floating_point() and given[key].dtype not in DTYPES:
            raise DeprojectorError(
                f"tensor {key} is {given[key].dtype}. Expected float16, bfloat16, float32 or float64: use the "
                "file that is not quantised."
            )
    _check_finite(given)


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DeprojectorError(
                f"tensor {key} holds NaN or infinite values. The file is damaged, or its training failed."
            )


def _refuse(what: str, keys: Iterable[str]) -> None:
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise DeprojectorError(
            f"{what} {names[0]!r}{more}. Check that config.json and weights belong together."
        )


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """The widest dtype among the weights."""
    dtype = None
    for tensor in state.values():
        if tensor.is_floating_point():
            dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
    return dtype or torch.float32


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DeprojectorError(f"There is no deprojector file or folder {path.name!r}.")
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    others = sorted(path.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    raise DeprojectorError(
        f"The folder {path.name!r} holds {len(others)} .safetensors files. Expected exactly one, or one of "
        f"{', '.join(WEIGHT_FILES)}."
    )


def _config_near(weights: Path) -> dict[str, Any]:
    if weights.suffix.lower() == ".safetensors":
        with safe_open(weights, framework="pt") as file:
            inside = (file.metadata() or {}).get(CONFIG_ENTRY)
        if inside:
            return parsed(inside, weights.name)
    for candidate in (weights.with_suffix(".json"), weights.with_name("config.json")):
        if candidate.is_file():
            return parsed(decoded(candidate), candidate.name)
    raise DeprojectorError(
        f"There is no config.json beside {weights.name}. Put the model's config.json into the same folder "
        f"(or name it {weights.stem}.json)."
    )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DeprojectorError(
            f"{path.name} could not be read as plain weights ({error}). Pickles that contain code are not "
            "loaded. Convert the file to safetensors with the program that made it."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DeprojectorError(f"{path.name} does not hold a state dict.")
    return state
