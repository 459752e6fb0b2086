"""From a published file to a module and back: family and revision detection, strict checks."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .base import Deprojector
from .config import (
    Config,
    LstmConfig,
    MvtConfig,
    TransformerConfig,
    VicinityConfig,
    VrnnConfig,
    VtConfig,
)
from .config_file import read
from .errors import DeprojectorError
from .lstm import LstmDeprojector
from .mvt import MvtDeprojector
from .transformer import TransformerDeprojector
from .vicinity import VicinityDeprojector
from .vrnn import VrnnDeprojector
from .vt import VtDeprojector

FAMILIES: dict[type[Config], type[Deprojector]] = {
    TransformerConfig: TransformerDeprojector,
    VicinityConfig: VicinityDeprojector,
    VtConfig: VtDeprojector,
    MvtConfig: MvtDeprojector,
    LstmConfig: LstmDeprojector,
    VrnnConfig: VrnnDeprojector,
}
CONFIG_OF_TYPE: dict[str, type[Config]] = {kind.model_type: kind for kind in FAMILIES} | {
    "clip_text_model": TransformerConfig  # what v1 to v3 call themselves
}
# A key that only this family has; in the order to ask.
SIGNS: tuple[tuple[str, type[Config]], ...] = (
    ("encoder_layer.", TransformerConfig),
    ("model2.", VrnnConfig),
    ("models.0.layers.0.attn.", MvtConfig),
    ("models.0.", LstmConfig),
    ("self_attn.0.", VtConfig),
    ("linear2.0.", VicinityConfig),
)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
CONFIG_ENTRY = "blockwork.deprojector"  # metadata of the files we write
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

    The weights are copied; the module gets their dtype and is in eval mode. DeprojectorError names an unknown
    field, a missing or left-over tensor, or one of the wrong size.
    """
    state = {key: value for key, value in state_dict.items() if not _ignored(key, config)}
    module = build(_read_config(state, config))
    _check(module.state_dict(), state)
    dtype = _dtype(state)
    copies = {
        key: value.detach().clone().to(dtype) if value.is_floating_point() else value.detach().clone()
        for key, value in state.items()
    }
    if isinstance(module, TransformerDeprojector):
        copies["position_ids"] = torch.arange(module.config.rows)[None]
    module.load_state_dict(copies, assign=True)
    return module.eval()


def build(config: Config, device: str = "meta") -> Deprojector:
    """An untrained module of that configuration; on ``meta`` it has shapes but no numbers."""
    with torch.device(device):
        return FAMILIES[type(config)](config)


def load(path: str | os.PathLike[str]) -> Deprojector:
    """The deprojector in a folder or file.

    A folder holds ``config.json`` and weights; a weight file stands beside its ``config.json`` (or
    ``<name>.json``) unless it is one of our own, which carry their configuration inside.

    Pickled weights are read with ``weights_only=True``. DeprojectorError says what is missing or wrong.
    """
    path = Path(path)
    weights = _weight_file(path)
    config = _config_near(weights)
    if weights.suffix == ".safetensors":
        state = load_file(weights)
    else:
        state = _read_pickle(weights)
    try:
        return from_state_dict(state, config)
    except DeprojectorError as error:
        raise DeprojectorError(f"{weights.name}: {error}") from error


def save(module: Deprojector, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Path:
    """Write one safetensors file with the configuration in its metadata; the path (suffix corrected).

    ``dtype`` converts the weights. Never over an existing file; nothing half-written stays behind.
    """
    path = Path(path).with_suffix(".safetensors")
    if path.exists():
        raise DeprojectorError(f"{path.name} exists already; choose another name.")
    state = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for key, value in module.state_dict().items()
    }
    metadata = {CONFIG_ENTRY: json.dumps(published_config(module)), "format": "pt"}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(state, scratch, metadata)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def published_config(module: Deprojector) -> dict[str, Any]:
    """The configuration as the original's ``config.json`` spells it: without our own layout fields."""
    fields = module.config.as_json()
    if isinstance(module, TransformerDeprojector):
        if not module.config.has_null:
            fields["model_type"] = "clip_text_model"
            del fields["relative_to_null"]
        elif module.config.embed_second and not module.config.expand:
            del fields["embed_second"], fields["expand"]
        del fields["has_null"]
    return fields


def _ignored(key: str, config: Mapping[str, Any]) -> bool:
    """Left-overs that no revision reads: position numbers, an ``expand`` layer not switched on."""
    return key.endswith("position_ids") or (key.startswith("expand.") and not config.get("expand"))


def _read_config(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Config:
    found = next((kind for sign, kind in SIGNS if any(key.startswith(sign) for key in state)), None)
    named = config.get("model_type")
    if named is not None and named not in CONFIG_OF_TYPE:
        raise DeprojectorError(
            f"config.json: unknown model_type {named!r}; known are {', '.join(sorted(CONFIG_OF_TYPE))}."
        )
    kind = CONFIG_OF_TYPE[named] if named else found
    if found is None or kind is None:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise DeprojectorError(f"these are no weights of a known deprojector family (found {some}, ...).")
    if found is not kind:
        raise DeprojectorError(
            f"config.json says {named!r}, but the weights are those of {found.model_type!r}: "
            "config.json and weights belong to different models."
        )
    fields = dict(config)
    if kind is TransformerConfig:
        _detect_revision(state, fields)
    return read(kind, fields)


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


def _check(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    expected = {key: value for key, value in expected.items() if not key.endswith("position_ids")}
    _refuse("missing tensor", expected.keys() - given.keys())
    _refuse("left-over tensor", given.keys() - expected.keys())
    for key, tensor in expected.items():
        if tensor.shape != given[key].shape:
            raise DeprojectorError(
                f"tensor {key}: expected {tuple(tensor.shape)} by config.json, the weights have "
                f"{tuple(given[key].shape)}."
            )


def _refuse(what: str, keys: Iterable[str]) -> None:
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise DeprojectorError(f"{what} {names[0]!r}{more}: do config.json and weights belong together?")


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
        raise DeprojectorError(f"there is no deprojector at {path.name!r}.")
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    others = sorted(path.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    raise DeprojectorError(
        f"the folder {path.name!r} holds {len(others)} .safetensors files; expected exactly one, or one of "
        f"{', '.join(WEIGHT_FILES)}."
    )


def _config_near(weights: Path) -> dict[str, Any]:
    if weights.suffix == ".safetensors":
        with safe_open(weights, framework="pt") as file:
            inside = (file.metadata() or {}).get(CONFIG_ENTRY)
        if inside:
            return _parsed(inside, weights.name)
    for candidate in (weights.with_suffix(".json"), weights.with_name("config.json")):
        if candidate.is_file():
            return _parsed(candidate.read_text(encoding="utf-8"), candidate.name)
    raise DeprojectorError(
        f"no config.json beside {weights.name}: put the model's config.json into the same folder "
        f"(or name it {weights.stem}.json)."
    )


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise DeprojectorError(f"{name} is not valid JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise DeprojectorError(f"{name} holds no JSON object.")
    return fields


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DeprojectorError(
            f"{path.name} could not be read as plain weights ({error}). A pickle that needs code is not "
            "loaded; convert it to safetensors with the program that made it."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DeprojectorError(f"{path.name} holds no state dict.")
    return state
