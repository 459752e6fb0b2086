"""Every diffusion model class of core: each key is in the block that its name says."""

import inspect
import re
import sys

import comfy.model_base
import pytest
from blockwork.blocks.keymap import KEY_MAPS, block_of
from blockwork.blocks.names import layout_of
from blockwork.blocks.weights import parse
from blockwork.tests.support import networks
from blockwork.tests.support.named_stacks import STACKS, by_name, stacks_of

CASCADE = {"Stable Cascade C": ((24, 72), (72, 24)), "Stable Cascade B": ((4, 12, 84, 18), (18, 84, 12, 4))}
# Not diffusion models: detectors, depth estimation, segmentation.
OTHERS = {"RTv4", "DepthAnything3Net", "SAM3Model"}

# Model -> what is outside the stacks, by the name a weight text gives it.
OUTSIDE = {
    "Flux.1 dev": {"IN": "img_in time_in vector_in guidance_in", "TXT": "txt_in", "OUT": "final_layer"},
    "SD3": {"IN": "pos_embed x_embedder t_embedder", "TXT": "context_embedder y_embedder", "OUT": "final_layer"},
    "Qwen-Image": {"IN": "img_in time_text_embed", "TXT": "txt_in txt_norm", "OUT": "norm_out proj_out"},
    "Wan 2.1": {"IN": "patch_embedding time_embedding time_projection", "TXT": "text_embedding", "OUT": "head"},
    "Z-Image": {"IN": "x_embedder x_pad_token t_embedder", "TXT": "cap_embedder cap_pad_token", "OUT": "final_layer"},
    "Krea 2": {"IN": "first tmlp tproj", "TXT": "txtfusion txtmlp", "OUT": "last"},
    "Anima": {"IN": "x_embedder t_embedder t_embedding_norm", "TXT": "llm_adapter", "OUT": "final_layer"},
    "Mochi": {"IN": "x_embedder t_embedder pos_frequencies", "TXT": "t5_y_embedder t5_yproj", "OUT": "final_layer"},
    "Flux.2 klein 4B": {"BASE": "double_stream_modulation_img double_stream_modulation_txt single_stream_modulation"},
    "AuraFlow": {"IN": "init_x_linear positional_encoding t_embedder", "TXT": "cond_seq_linear", "OUT": "final_linear"},
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_each_key_is_in_the_block_its_name_says(name):
    keys, stacks = networks.keys(name), stacks_of(STACKS[name])
    layout = layout_of(keys)
    assert [(stack.letter, stack.title, stack.count) for stack in layout.stacks] == stacks
    hits = set()
    for key in keys:
        block = by_name(key, stacks)
        for key_map in KEY_MAPS:
            found = block_of(key, layout, key_map)
            if block:
                assert found == block or (key_map == "supermerger" and found is None), key
            elif not layout.is_unet:
                assert (found is None and key_map == "supermerger") or found in layout.apart, key
        hits.add(block)
    assert hits - {None} == set(layout.blocks)
    assert layout_of(key.replace("diffusion_model.", "model.diffusion_model.", 1) for key in keys) == layout


@pytest.mark.parametrize("name", CASCADE)
def test_levels_of_stable_cascade_are_counted_through(name):
    keys = networks.keys(name)
    layout = layout_of(keys)
    assert [(stack.letter, stack.levels) for stack in layout.stacks] == list(
        zip(("DN", "UP"), CASCADE[name], strict=True)
    )
    for key in keys:
        if found := re.match(r"diffusion_model\.(down|up)_blocks\.(\d+)\.(\d+)\.", key):
            side, level, number = found.group(1), int(found.group(2)), int(found.group(3))
            counts = CASCADE[name][side == "up"]
            assert (
                block_of(key, layout) == f"{'UP' if side == 'up' else 'DN'}{sum(counts[:level]) + number:02}"
            )


@pytest.mark.parametrize("name", OUTSIDE)
def test_layers_outside_the_stacks(name):
    keys = networks.keys(name)
    layout = layout_of(keys)
    found: dict[str, set[str]] = {}
    for key in keys:
        block = block_of(key, layout)
        if block not in layout.blocks:
            found.setdefault(str(block), set()).add(key.split(".")[1])
    for role, modules in OUTSIDE[name].items():
        there = {key.split(".")[1] for key in keys}
        assert found[role] == set(modules.split()) & there


def test_every_diffusion_model_class_of_core_is_tested():
    source = inspect.getsource(comfy.model_base)
    classes = set(re.findall(r"unet_model=(?:[\w.]+\.)?(\w+)", source)) - OTHERS - {"unet_model"}
    tested = {path.rpartition(".")[2] for path, _ in networks.NETWORKS.values()} | {
        "OpenAISignatureMMDITWrapper"
    }
    assert classes <= tested, classes - tested
    assert len(classes) >= 44 and set(networks.NETWORKS) == set(STACKS) | set(CASCADE)
    assert "comfy.ldm" in sys.modules


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_weight_text_reaches_each_block_of_each_model(name):
    layout = layout_of(networks.keys(name))
    text = ", ".join(f"{block}={place / 256}" for place, block in enumerate(layout.blocks))
    read = parse(text, layout)
    assert read.values == tuple(place / 256 for place in range(len(layout.blocks)))
    assert parse(read.text(), layout) == read
    for stack in layout.stacks:
        if not stack.levels and layout.name != "any":
            named = parse(f"{stack.title}.{stack.count - 1}=1", layout)
            assert named.named == {stack.blocks[-1]}
