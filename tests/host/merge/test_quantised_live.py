"""Live merges of scaled fp8 models: the scales belong to their weights and are never listed as weights themselves."""

from pathlib import Path

import comfy.model_management
import comfy.sd
import pytest
import torch
from blockwork.merge.compare import host as host_compare
from blockwork.merge.live import host
from refhost import checkpoints, layout
from safetensors.torch import load_file

PREFIX = "model.diffusion_model."
KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight"


def load(tensors: dict[str, torch.Tensor]):
    return comfy.sd.load_diffusion_model_state_dict(
        {key.removeprefix(PREFIX): value.clone() for key, value in tensors.items() if key.startswith(PREFIX)}
    )


def scaled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layout of older scaled fp8 files: float8 codes, a ``scale_weight`` beside each, one mark."""
    out = dict(tensors)
    for key, weight in tensors.items():
        if key.startswith(PREFIX) and ".attn" in key and weight.ndim == 2:
            scale = weight.float().abs().max() / 448
            out[key] = (weight.float() / scale).to(torch.float8_e4m3fn)
            out[key.removesuffix("weight") + "scale_weight"] = scale.reshape(1)
    out[PREFIX + "scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return out


@pytest.fixture(scope="module")
def files() -> list[dict[str, torch.Tensor]]:
    paths: list[Path] = checkpoints.make_named(["sd15_a", "sd15_b"], layout.TESTS_BASE)
    return [load_file(path) for path in paths]


def plain(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    codes = scaled(tensors)
    key = f"model.{KEY}"
    return codes[key].float() * codes[key.removesuffix("weight") + "scale_weight"]


def test_merges_and_comparisons_read_the_weights_not_the_codes(files):
    a, quantised = load(files[0]), load(scaled(files[1]))
    merged, plan = host.merge_models(a, quantised, "0.5")
    assert not any("scale" in key or "comfy_quant" in key for key in plan.merged) and not plan.kept
    found = merged.patch_weight_to_device(KEY, device_to=torch.device("cpu"), return_weight=True).float()
    wanted = (files[0][f"model.{KEY}"].float() + plain(files[1])) / 2
    assert (found - wanted).abs().max() <= wanted.abs().max() * 2**-10
    likeness = host_compare.compare_live(load(files[1]), quantised, "mbw")
    assert 0 < likeness.blocks["IN04"].relative < 0.05 and likeness.blocks["OUT00"].distance == 0


def test_sliders_move_over_a_quantised_model(files):
    """The second position loads over the first; the weight is the scaled one, to the precision of fp8."""
    model, wanted = load(scaled(files[0])), plain(files[0])
    for factor in (0.5, 0.75):
        moved, _ = host.scale_blocks(model, f"IN04={factor}")
        comfy.model_management.load_models_gpu([moved])
        module = moved.model.diffusion_model.input_blocks[4][1].transformer_blocks[0].attn2.to_q
        found = module.weight.dequantize() if hasattr(module.weight, "dequantize") else module.weight
        assert (found.float() - factor * wanted).abs().max() <= wanted.abs().max() * 2**-4
    comfy.model_management.unload_all_models()
