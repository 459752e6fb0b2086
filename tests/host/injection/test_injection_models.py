"""T21: which layers a name means is read off the model, for every U-Net of the family."""

from types import SimpleNamespace

import comfy.ops
import comfy.supported_models
import pytest
import torch
from blockwork.blocks.spec import SpecError, parse
from blockwork.blocks.walk import NotAUNet, walk
from blockwork.injection.host_transformers import layers_of
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

META = torch.device("meta")
COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
}
FOUR = {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4]}
THREE = {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "context_dim": 2048, "adm_in_channels": 2816}
TWO = {"num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "context_dim": 2048, "adm_in_channels": 2816}
ONES = {
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
SIXTEEN = dict.fromkeys(
    [
        *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00"),
        *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
    ],
    1,
)


def depths(down: dict[str, int], up: dict[str, int], middle: int = 0) -> dict[str, int]:
    return {**down, **({"M00": middle} if middle else {}), **up}


# Configurations as ComfyUI detects them, and the blocks with cross-attention (and how many layers) each has.
MODELS = {
    "SD15": (
        {**COMMON, **FOUR, **ONES, "context_dim": 768, "num_heads": 8, "num_head_channels": -1}
        | {"use_linear_in_transformer": False},
        SIXTEEN,
    ),
    "SD21": ({**COMMON, **FOUR, **ONES, "context_dim": 1024}, SIXTEEN),
    "SDXL": (
        {
            **COMMON,
            **THREE,
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        },
        depths(
            {"IN04": 2, "IN05": 2, "IN07": 10, "IN08": 10},
            {"OUT00": 10, "OUT01": 10, "OUT02": 10, "OUT03": 2, "OUT04": 2, "OUT05": 2},
            10,
        ),
    ),
    "refiner": (
        {
            **COMMON,
            **FOUR,
            "model_channels": 384,
            "context_dim": 1280,
            "adm_in_channels": 2560,
            "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
            "transformer_depth_middle": 4,
            "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        },
        depths(
            dict.fromkeys(["IN04", "IN05", "IN07", "IN08"], 4),
            dict.fromkeys(["OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08"], 4),
            4,
        ),
    ),
    "SSD-1B": (
        {
            **COMMON,
            **THREE,
            "transformer_depth": [0, 0, 2, 2, 4, 4],
            "transformer_depth_middle": -1,
            "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
        },
        depths(
            {"IN04": 2, "IN05": 2, "IN07": 4, "IN08": 4},
            {"OUT00": 4, "OUT01": 4, "OUT02": 10, "OUT03": 2, "OUT04": 1, "OUT05": 1},
        ),
    ),
    "Vega": (
        {
            **COMMON,
            **THREE,
            "transformer_depth": [0, 0, 1, 1, 2, 2],
            "transformer_depth_middle": -1,
            "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        },
        depths(
            {"IN04": 1, "IN05": 1, "IN07": 2, "IN08": 2},
            {"OUT00": 2, "OUT01": 2, "OUT02": 2, "OUT03": 1, "OUT04": 1, "OUT05": 1},
        ),
    ),
    "KOALA-700M": (
        {
            **COMMON,
            **TWO,
            "transformer_depth": [0, 2, 5],
            "transformer_depth_middle": -2,
            "transformer_depth_output": [0, 0, 2, 2, 5, 5],
        },
        depths({"IN03": 2, "IN05": 5}, {"OUT00": 5, "OUT01": 5, "OUT02": 2, "OUT03": 2}),
    ),
    "KOALA-1B": (
        {
            **COMMON,
            **TWO,
            "transformer_depth": [0, 2, 6],
            "transformer_depth_middle": 6,
            "transformer_depth_output": [0, 0, 2, 2, 6, 6],
        },
        depths({"IN03": 2, "IN05": 6}, {"OUT00": 6, "OUT01": 6, "OUT02": 2, "OUT03": 2}, 6),
    ),
}


def build(name: str) -> UNetModel:
    config, _ = MODELS[name]
    classes = {"num_classes": "sequential"} if "adm_in_channels" in config else {}
    operations = comfy.ops.disable_weight_init
    return UNetModel(**config, **classes, device=META, dtype=torch.float32, operations=operations)


def layers_reached(unet: UNetModel, side: int = 16) -> list[tuple[str, int, int]]:
    """Run the U-Net on the meta device with a spy in cross-attention; the layers it saw, in order."""
    seen = []

    def spy(n, k, v, options):
        seen.append((*options["block"], options["block_index"]))
        return n, k, v

    def attention(function, q, *args, **kwargs):
        return q  # the real one asks how much memory the device has; "meta" has none

    y = torch.empty(1, unet.label_emb[0][0].in_features, device=META) if unet.num_classes else None
    context = torch.empty(1, 77, walk(unet).context, device=META)
    unet(
        torch.empty(1, 4, side, side, device=META),
        torch.empty(1, device=META),
        context=context,
        y=y,
        transformer_options={"patches": {"attn2_patch": [spy]}, "optimized_attention_override": attention},
    )
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_the_walk_names_exactly_the_layers_that_run(name):
    unet = build(name)
    blocks, expected = walk(unet), MODELS[name][1]
    assert {block.name: block.depth for block in blocks.attending} == expected
    reached = layers_reached(unet)
    assert reached == list(blocks.sub_blocks)
    assert len(reached) == len(set(reached)) == sum(expected.values())
    for block in blocks.attending:
        assert tuple(parse(block.name, blocks).settings) == block.sub_blocks
        for inner, sub_block in enumerate(block.sub_blocks):
            name = block.name if block.depth == 1 else f"{block.name}.{inner}"
            assert tuple(parse(name, blocks).settings) == (sub_block,)


@pytest.mark.parametrize("name", MODELS)
def test_unknown_blocks_name_the_valid_ones(name):
    blocks = walk(build(name))
    for wrong in ("IN99", "IN00", "output:77"):
        with pytest.raises(SpecError) as caught:
            parse(f"all, {wrong}", blocks)
        assert all(block.name in str(caught.value) for block in blocks.attending)


def test_transformer_models_say_why_not():
    with pytest.raises(NotAUNet, match=r"Flux.*joint attention"):
        layers_of(SimpleNamespace(diffusion_model=Flux.__new__(Flux)))
