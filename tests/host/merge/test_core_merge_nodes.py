"""Live merges of every architecture that core has a ModelMerge node for: bit-equal on the same ratios."""

import pytest
import torch
from blockwork.blocks.names import layout_of
from blockwork.blocks.outside import own_name
from blockwork.blocks.stacks import place_of
from blockwork.merge.live import host
from blockwork.tests.support import networks
from blockwork.tests.support.loading import loaded_weight
from comfy_extras.nodes_model_merging_model_specific import NODE_CLASS_MAPPINGS

UNET = {
    "channel_mult": (1, 2), "num_res_blocks": [1, 1], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
}  # fmt: skip
# Node id of core -> network, with a few layers of it.
FAMILIES = {
    "ModelMergeSD1": ("SD1", UNET),
    "ModelMergeSD2": ("SD1", UNET | {"context_dim": 1024}),
    "ModelMergeSDXL": ("SDXL", UNET),
    "ModelMergeSD3_2B": ("SD3", {"depth": 4}),
    "ModelMergeSD35_Large": ("SD3", {"depth": 6}),
    "ModelMergeAuraflow": ("AuraFlow", {"n_layers": 6}),
    "ModelMergeFlux1": ("Flux.1 dev", {"depth": 3, "depth_single_blocks": 12}),
    "ModelMergeMochiPreview": ("Mochi", {"depth": 4}),
    "ModelMergeLTXV": ("LTXV", {"num_layers": 4}),
    "ModelMergeCosmos7B": ("Cosmos 1", {"num_blocks": 4}),
    "ModelMergeCosmos14B": ("Cosmos 1", {"num_blocks": 5}),
    "ModelMergeWAN2_1": ("Wan 2.1 I2V", {"num_layers": 4}),
    "ModelMergeCosmosPredict2_2B": ("Cosmos Predict2", {"num_blocks": 12}),
    "ModelMergeCosmosPredict2_14B": ("Anima", {"num_blocks": 4}),
    "ModelMergeQwenImage": ("Qwen-Image", {"num_layers": 4}),
    "ModelMergeKrea2": ("Krea 2", {"layers": 4}),
}  # fmt: skip


def test_all_of_cores_nodes_are_here():
    assert set(FAMILIES) == set(NODE_CLASS_MAPPINGS) and len(FAMILIES) == 16


@pytest.mark.parametrize("node", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bit_equal_to_cores_node_on_the_same_ratios(node, dtype):
    name, changes = FAMILIES[node]
    a, b = networks.shrunk(name, 1, dtype, **changes), networks.shrunk(name, 2, dtype, **changes)
    layout = layout_of(a.model_state_dict("diffusion_model."))
    prefixes = [
        key for key in NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"] if not key.startswith("model")
    ]
    ratios, text = {}, []
    for number, prefix in enumerate(prefixes):
        share = 0.25 if prefix.startswith("middle_block") else (number * 7 % 61 - 3) / 53
        ratios[prefix] = 1 - share
        inside = prefix if prefix.endswith(".") else f"{prefix}."
        place = place_of(f"{inside}x.weight", layout.titles)
        block = place[0].blocks[place[1]] if place else own_name(inside)
        if block in layout.index or block in layout.apart:
            text.append(f"{block}={share!r}")
    rest = 1 - ratios[prefixes[0]]  # core: what no slider names follows the first slider
    named = {word.partition("=")[0] for word in text}
    text += [f"{block}={rest!r}" for block in layout.blocks if block not in named]  # ours: it stays A's
    ours, plan = host.merge_models(a, b, ", ".join([f"BASE={rest!r}", *text]), key_map="comfy")
    core = NODE_CLASS_MAPPINGS[node]().merge(a, b, **ratios)[0]
    keys = list(a.model_state_dict("diffusion_model."))
    assert len(keys) > 50
    left = [key for key in keys if not any(key[len("diffusion_model.") :].startswith(p) for p in prefixes)]
    said = [line for line in plan.report().splitlines() if "no slider in core's ModelMerge" in line]
    assert [line.split()[1] for line in said] == ([str(len(left))] if left else []), (
        "what core does otherwise"
    )
    for key in keys:
        assert torch.equal(loaded_weight(ours, key), loaded_weight(core, key)), key
