"""Models quantised by core's own quantiser, and how far codes are from the numbers that they were rounded from."""

import dataclasses
import json
import math
from typing import Any

import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from comfy_kitchen.backends.eager.svdquant import _unpack_int4_row_major
from comfy_kitchen.tensor import get_layout_class

PREFIX = "model.diffusion_model."
GROUP = 64

# name -> core's format, arguments of its quantiser, what its description says besides the format
FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fp8_scaled": ("float8_e4m3fn", {"scale": "recalculate"}, {}),
    "fp8_e5m2": ("float8_e5m2", {"scale": "recalculate"}, {}),
    "int8": ("int8_tensorwise", {}, {}),
    "int8_convrot": (
        "int8_tensorwise",
        {"per_channel": True, "convrot": True, "convrot_groupsize": GROUP},
        {"convrot": True, "convrot_groupsize": GROUP},
    ),
    "convrot_w4a4": ("convrot_w4a4", {"convrot_groupsize": GROUP}, {"convrot_groupsize": GROUP}),
    "mxfp8": ("mxfp8", {}, {}),
    "nvfp4": ("nvfp4", {"scale": "recalculate"}, {}),
}
_GRIDS = {
    "int8_tensorwise": torch.arange(-128.0, 128.0),
    "convrot_w4a4": torch.arange(-8.0, 8.0),
    "nvfp4": torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]),
    "mxfp8": torch.float8_e4m3fn,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def quantised(tensors: dict[str, torch.Tensor], name: str, keys: list[str]) -> dict[str, torch.Tensor]:
    """A state dict with some of its weights as core quantises and saves them."""
    kind, arguments, description = FORMS[name]
    out = dict(tensors)
    for key in keys:
        layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
        out |= QuantizedTensor.from_float(tensors[key].float(), layout, **arguments).state_dict(key)
        text = json.dumps({"format": kind, **description}).encode()
        out[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    return {key: value.contiguous() for key, value in out.items()}


def parts(state: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    """Codes, scales and description of one weight."""
    stem = key.removesuffix("weight")
    return {name.removeprefix(stem): value for name, value in state.items() if name.startswith(stem)}


def tensor_of(state: dict[str, torch.Tensor], key: str) -> QuantizedTensor:
    """A stored weight as core loads it, in float32."""
    found = parts(state, key)
    description = json.loads(bytes(found["comfy_quant"].tolist()))
    kind, codes, scale = description.pop("format"), found["weight"], found["weight_scale"]
    layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
    shape = (codes.shape[0], codes.shape[1] * (2 if kind in ("nvfp4", "convrot_w4a4") else 1))
    arguments = {"scale": scale, **description}
    if kind == "nvfp4":
        arguments = {"scale": found["weight_scale_2"], "block_scale": scale}
    params = get_layout_class(layout).Params(**arguments, orig_dtype=torch.float32, orig_shape=shape)
    return QuantizedTensor(codes, layout, params)


def plain(state: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """What core computes with: the weight, dequantised."""
    return tensor_of(state, key).dequantize()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two stored weights are the same byte for byte."""
    return one.keys() == other.keys() and all(
        one[word].dtype == other[word].dtype
        and torch.equal(one[word].reshape(-1).view(torch.uint8), other[word].reshape(-1).view(torch.uint8))
        for word in one
    )


def off(state: dict[str, torch.Tensor], key: str, exact: torch.Tensor) -> torch.Tensor:
    """How far every stored number is from ``exact`` in the stored domain, in steps between neighbouring codes.

    0.5 is half the way to the next code: the bound of rounding to nearest; 1 is the bound of stochastic rounding.
    Infinite where all codes that share a step are 0 and the exact numbers are not.
    """
    stored = tensor_of(state, key)
    kind = stored_kind(state, key)
    group = getattr(stored._params, "convrot_groupsize", 0) if _is_rotated(stored) else 0
    if kind == "convrot_w4a4":
        numbers, step = _unpack_int4_row_major(stored._qdata).double(), stored._params.scale.double()[:, None]
    else:
        params = stored._params
        ones = dataclasses.replace(params, convrot=False) if group else params
        values = QuantizedTensor(stored._qdata, stored._layout_cls, ones).dequantize().double()
        numbers = _numbers(stored, kind)
        step = torch.where(numbers == 0, torch.nan, values / numbers)
        step = _filled(step, kind)
    turned = _rotated(exact.double(), group)
    target = turned / step
    grid = _grid(kind)
    place = torch.searchsorted(grid, numbers.contiguous())
    padded = torch.cat([2 * grid[:1] - grid[1:2], grid, 2 * grid[-1:] - grid[-2:-1]])
    below, above = numbers - padded[place], padded[place + 2] - numbers
    distance = target - numbers
    found = distance / torch.where(distance < 0, below, above)
    return torch.where(step.isnan(), torch.where(turned == 0, 0.0, torch.inf), found.abs())


def stored_kind(state: dict[str, torch.Tensor], key: str) -> str:
    """Core's name of the format of a stored weight."""
    return json.loads(bytes(parts(state, key)["comfy_quant"].tolist()))["format"]


def _is_rotated(stored: QuantizedTensor) -> bool:
    return getattr(stored._params, "convrot", stored._layout_cls == "TensorCoreConvRotW4A4Layout")


def _numbers(stored: QuantizedTensor, kind: str) -> torch.Tensor:
    if kind != "nvfp4":
        return stored._qdata.double()
    halves = torch.stack([stored._qdata >> 4, stored._qdata & 15], -1).flatten(-2).long()
    return (_GRIDS["nvfp4"][halves & 7] * torch.where(halves > 7, -1.0, 1.0)).double()


def _filled(step: torch.Tensor, kind: str) -> torch.Tensor:
    """The step also where a code is 0, from the other weights that share it; NaN where all are 0."""
    width = {"nvfp4": 16, "mxfp8": 32}.get(kind, step.shape[1])
    blocks = step.view(step.shape[0], -1, width)
    return blocks.nanmedian(-1, keepdim=True).values.expand_as(blocks).reshape(step.shape)


def _rotated(values: torch.Tensor, group: int) -> torch.Tensor:
    if not group:
        return values
    h4 = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)
    matrix = h4
    while matrix.shape[0] < group:
        matrix = torch.kron(matrix, h4)
    grouped = values.view(values.shape[0], -1, group) @ (matrix.T / math.sqrt(group))
    return grouped.reshape(values.shape)


def _grid(kind: str) -> torch.Tensor:
    grid = _GRIDS[kind]
    if isinstance(grid, torch.dtype):
        codes = torch.arange(256, dtype=torch.uint8).view(grid).float()
        grid = codes[codes.isfinite()].unique()
    return torch.cat([-grid, grid]).unique().double() if kind == "nvfp4" else grid.double()
