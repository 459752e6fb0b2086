"""The stored results of the author's deprojectors (tests/data/deprojector), with the models they belong to."""

import functools
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from .drawn_weights import draw, inputs

DATA = Path(__file__).resolve().parents[1] / "data" / "deprojector"
GOLDENS: dict[str, Any] = json.loads((DATA / "goldens.json").read_text())
FLAGS: dict[str, Any] = json.loads((DATA / "flags.json").read_text())


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """``embeds``, ``out64``, ``teacher_in``, ``teacher`` (not for every class); the state dict; the case."""
    case = GOLDENS[name]
    if case["rev"] != "HEAD":  # a file of its own, with the weights
        tensors = load_file(DATA / f"{name}.safetensors")
        return tensors, {key[2:]: value for key, value in tensors.items() if key.startswith("w.")}, case
    return _drawn(name, case, "goldens")


def flag(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """The same of one of the small models with random flags."""
    return _drawn(name, FLAGS[name], "flags")


def _drawn(
    name: str, case: dict[str, Any], file: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    embeds, states = inputs(case)
    stored = {
        key[len(name) + 1 :]: value for key, value in _stored(file).items() if key.startswith(f"{name}/")
    }
    return {"embeds": embeds, "teacher_in": states, **stored}, draw(case["keys"], case["seed"]), case


@functools.cache
def _stored(file: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{file}.safetensors")
