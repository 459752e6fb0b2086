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

# Model -> its stacks, in the order of a weight list: letter=module path:count. Read off core's classes by hand.
STACKS = {
    "SD1": "IN=input_blocks:12 M=middle_block:1 OUT=output_blocks:12",
    "SDXL": "IN=input_blocks:9 M=middle_block:1 OUT=output_blocks:9",
    "SDXL refiner": "IN=input_blocks:12 M=middle_block:1 OUT=output_blocks:12",
    "KOALA 700M": "IN=input_blocks:6 OUT=output_blocks:6",
    "SD3": "J=joint_blocks:24",
    "SD3.5 Medium": "J=joint_blocks:24",
    "Stable Audio": "B=transformer.layers:24",
    "AuraFlow": "D=double_layers:4 S=single_layers:32",
    "PixArt": "B=blocks:28",
    "HunyuanDiT": "B=blocks:40",
    "Flux.1 dev": "D=double_blocks:19 S=single_blocks:38",
    "Flux.2 klein 4B": "D=double_blocks:5 S=single_blocks:20",
    "Chroma": "G=distilled_guidance_layer.layers:5 D=double_blocks:19 S=single_blocks:38",
    "Chroma Radiance": "G=distilled_guidance_layer.layers:5 D=double_blocks:19 S=single_blocks:38 N=nerf_blocks:4",
    "Mochi": "B=blocks:48",
    "LTXV": "B=transformer_blocks:28",
    "LTX-2": "VC=video_embeddings_connector.transformer_1d_blocks:2 AC=audio_embeddings_connector.transformer_1d_blocks:2 B=transformer_blocks:48",
    "HunyuanVideo": "TR=txt_in.individual_token_refiner.blocks:2 D=double_blocks:20 S=single_blocks:40",
    "HunyuanVideo 1.5": "TR=txt_in.individual_token_refiner.blocks:2 D=double_blocks:54",
    "HunyuanImage 2.1": "TR=txt_in.individual_token_refiner.blocks:2 D=double_blocks:20 S=single_blocks:40",
    "Hunyuan3D 2": "D=double_blocks:16 S=single_blocks:32",
    "Hunyuan3D 2.1": "B=blocks:21",
    "Cosmos 1": "B=blocks.block:28",
    "Cosmos Predict2": "B=blocks:28",
    "Anima": "A=llm_adapter.blocks:6 B=blocks:28",
    "Lumina 2": "CR=context_refiner:2 NR=noise_refiner:2 B=layers:26",
    "Z-Image": "CR=context_refiner:2 NR=noise_refiner:2 B=layers:30",
    "Z-Image pixel": "CR=context_refiner:2 NR=noise_refiner:2 B=layers:30 P=dec_net.res_blocks:4",
    "PixelDiT": "B=patch_blocks:14 P=pixel_blocks:2",
    "PiD": "B=patch_blocks:14 P=pixel_blocks:2",
    "Wan 2.1": "B=blocks:30",
    "Wan 2.1 I2V": "B=blocks:30",
    "Wan causal": "B=blocks:30",
    "Wan VACE": "B=blocks:30 VACE=vace_blocks:15",
    "Wan camera": "B=blocks:30",
    "Wan HuMo": "B=blocks:30",
    "Wan SCAIL": "B=blocks:30",
    "Wan SCAIL 2": "B=blocks:30",
    "Wan S2V": "B=blocks:40 INJECTOR=audio_injector.injector:12 INJECTOR_ADAIN=audio_injector.injector_adain_layers:12",
    "Wan Animate": "B=blocks:30 FUSER=face_adapter.fuser_blocks:6",
    "WanDancer": "B=blocks:30 MUSIC_ENCODER=music_encoder:2 INJECTOR=music_injector.injector:8",
    "HiDream I1": "D=double_stream_blocks:16 S=single_stream_blocks:32",
    "HiDream O1": "V=visual.blocks:27 B=language_model.layers:36",
    "OmniGen2": "CR=context_refiner:2 NR=noise_refiner:2 RR=ref_image_refiner:2 B=layers:32",
    "Boogu": "CR=context_refiner:2 NR=noise_refiner:2 RR=ref_image_refiner:2 D=double_stream_layers:8 S=single_stream_layers:32",
    "Qwen-Image": "B=transformer_blocks:60",
    "Mage-Flow": "B=transformer_blocks:24",
    "JoyImage": "D=double_blocks:20",
    "Ideogram 4": "B=layers:34",
    "Krea 2": "TL=txtfusion.layerwise_blocks:2 TR=txtfusion.refiner_blocks:2 B=blocks:28",
    "Kandinsky 5": "T=text_transformer_blocks:2 B=visual_transformer_blocks:32",
    "Lens": "B=transformer_blocks:48",
    "Ernie-Image": "B=layers:36",
    "CogVideoX": "B=blocks:30",
    "MiniMax H3": "TR=token_refiner.blocks:2 B=blocks:50",
    "SeedVR2": "B=blocks:32",
    "TripoSplat": "CR=context_refiner:2 NR=noise_refiner:2 B=blocks:24 CONTEXT_REPO=context_repo_layers:2 NOISE_REPO=noise_repo_layers:2 REPO=repo_layers:24",
    "ACE-Step": "B=transformer_blocks:28 ENCODERS=lyric_encoder.encoders:6",
    "ACE-Step 1.5": "B=decoder.layers:24 DETOKENIZER=detokenizer.layers:2 LYRIC_ENCODER=encoder.lyric_encoder.layers:8 TIMBRE_ENCODER=encoder.timbre_encoder.layers:4 ATTENTION_POOLER=tokenizer.attention_pooler.layers:2",
}  # fmt: skip
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


def by_name(key: str, stacks: list[tuple[str, str, int]]) -> str | None:
    """The block that the text of a key says, without the code that is tested."""
    for letter, title, _ in stacks:
        mark = "" if title == "blocks.block" else r"\."
        if found := re.match(rf"diffusion_model\.{re.escape(title)}{mark}(\d+)\.", key):
            return "M00" if letter == "M" else f"{letter}{int(found.group(1)):02}"
    return None


def stacks_of(text: str) -> list[tuple[str, str, int]]:
    found = [re.fullmatch(r"(\w+)=([\w.]+):(\d+)", word) for word in text.split()]
    return [(match.group(1), match.group(2), int(match.group(3))) for match in found if match]


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
