"""Layouts read off key lists: stacks, letters, order, names outside the stacks, and lists that are not models."""

import random
import time

import pytest
from blockwork.blocks import names
from blockwork.blocks.keymap import KEY_MAPS, block_of
from blockwork.blocks.names import LAYOUTS, SD1, BlockError, as_layout, layout_of
from blockwork.blocks.stacks import KNOWN, read_layout

PREFIX = "diffusion_model."
FLUX_APART = (
    "img_in",
    "time_in.in_layer",
    "vector_in.in_layer",
    "guidance_in.in_layer",
    "txt_in",
    "final_layer.linear",
)


def rows(prefix=PREFIX, apart=(), **stacks):
    """Keys of a model with these stacks (``__`` in a name is a dot) and layers outside them."""
    keys = [f"{prefix}{name}.weight" for name in apart]
    for title, count in stacks.items():
        path = title.replace("__", ".")
        for number in range(count):
            keys += [f"{prefix}{path}.{number}.{part}.weight" for part in ("attn.qkv", "mlp.fc1", "mlp.fc2")]
    return keys


FLUX = rows(apart=FLUX_APART, double_blocks=19, single_blocks=38)


def test_known_stacks_have_the_letters_of_the_community():
    layout = layout_of(FLUX)
    assert layout == LAYOUTS["flux"]
    assert layout.blocks[:2] == ("D00", "D01") and layout.blocks[-1] == "S37" and len(layout.blocks) == 57
    klein = layout_of(rows(double_blocks=5, single_blocks=20))
    assert klein.name == "klein_4b" and len(klein.blocks) == len(SD1.blocks) == 25


def test_the_order_is_that_of_the_model_and_not_of_the_keys():
    keys = rows(layers=30, noise_refiner=2, context_refiner=2, quux_blocks=3, abc_blocks=2)
    expected = layout_of(keys)
    assert [stack.letter for stack in expected.stacks] == ["CR", "NR", "B", "ABC", "QUUX"]
    for seed in range(5):
        random.Random(seed).shuffle(keys)
        assert layout_of(keys) == expected and layout_of(iter(keys)).blocks == expected.blocks


def test_an_unknown_model_has_blocks():
    layout = layout_of(rows(apart=("img_in", "quux_mixer.lin"), quux_blocks=7))
    assert layout.blocks == tuple(f"QUUX{i:02}" for i in range(7))
    assert layout.as_json() == {
        "name": "QUUX7",
        "stacks": [{"letter": "QUUX", "title": "quux_blocks", "blocks": list(layout.blocks)}],
        "apart": ["BASE", "VAE", "CLIP", "T5", "IN", "IMG_IN", "QUUX_MIXER"],
    }
    assert block_of(PREFIX + "quux_blocks.5.attn.qkv.weight", layout) == "QUUX05"
    assert as_layout(layout.name).blocks == layout.blocks


def test_derived_prefixes_never_take_a_name_that_is_in_use():
    layout = layout_of(
        rows(
            in_blocks=2,
            out_layers=2,
            base__blocks=2,
            m_blocks=2,
            blocks2=2,
            blocks=3,
            layers=3,
            double_blocks=2,
        )
    )
    letters = [stack.letter for stack in layout.stacks]
    assert len(set(letters)) == len(letters) == 8
    assert not {"IN", "OUT", "BASE", "M"} & set(letters)
    assert len(set(layout.blocks)) == len(layout.blocks)
    assert as_layout(layout.name).blocks == layout.blocks


@pytest.mark.parametrize(
    "keys",
    [
        ["cap_embedder.0.weight", "cap_embedder.1.weight", "cap_embedder.1.bias"],
        [f"caption_projection.{i}.linear.weight" for i in range(49)],
        ["t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"],
        [f"projectors.{i}.{j}.weight" for i in range(2) for j in (0, 2, 4)],
        [f"txt_norm.{i}.weight" for i in range(4)],
        ["conv_blocks.1.a.weight", "conv_blocks.2.a.weight"],
    ],
)
def test_rows_of_layers_are_not_stacks(keys):
    with pytest.raises(BlockError, match="no numbered blocks"):
        layout_of(PREFIX + key for key in keys)
    layout = layout_of([*FLUX, *(PREFIX + key for key in keys)])
    assert layout == LAYOUTS["flux"]
    assert all(block_of(PREFIX + key, layout) in layout.apart for key in keys)


def test_blocks_that_differ_are_one_stack():
    keys = rows(blocks=4)
    keys += [f"{PREFIX}blocks.{i}.skip_linear.weight" for i in (2, 3)]
    keys.remove(f"{PREFIX}blocks.3.mlp.fc2.weight")
    assert layout_of(keys).blocks == ("B00", "B01", "B02", "B03")


def test_stacks_in_other_modules_and_in_levels():
    cosmos = [
        f"{PREFIX}blocks.block{i}.blocks.{j}.block.attn.to_q.0.weight" for i in range(12) for j in range(3)
    ]
    layout = layout_of(cosmos)
    assert layout.blocks == tuple(f"B{i:02}" for i in range(12))
    assert block_of(cosmos[-1], layout) == "B11" and block_of(cosmos[3], layout) == "B01"
    cascade = [
        f"{PREFIX}{side}.{level}.{i}.channelwise.0.weight"
        for side, counts in (("down_blocks", (4, 12)), ("up_blocks", (12, 4)))
        for level, count in enumerate(counts)
        for i in range(count)
    ]
    layout = layout_of(cascade)
    assert layout.spans() == "DN00-DN15, UP00-UP15"
    assert [stack["levels"] for stack in layout.as_json()["stacks"]] == [[4, 12], [12, 4]]
    assert block_of(f"{PREFIX}down_blocks.1.5.channelwise.0.weight", layout) == "DN09"
    assert block_of(f"{PREFIX}up_blocks.1.3.channelwise.0.weight", layout) == "UP15"
    assert [block_of(key, layout) for key in cascade] == list(layout.blocks)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("title", list(KNOWN))
def test_every_known_stack_by_itself(title, prefix):
    if title == "blocks.block":
        return
    keys = rows(prefix, **{title.replace(".", "__"): 11})
    layout = layout_of(keys)
    assert [stack.title for stack in layout.stacks] == [title]
    for key in keys:
        number = int(key.removeprefix(f"{prefix}{title}.").partition(".")[0])
        assert all(block_of(key, layout, key_map) == f"{KNOWN[title]}{number:02}" for key_map in KEY_MAPS)


@pytest.mark.parametrize(
    "key, mbw, supermerger, mecha, comfy",
    [
        ("diffusion_model.double_blocks.10.img_attn.qkv.weight", "D10", "D10", "D10", "D10"),
        ("diffusion_model.single_blocks.1.linear1.bias", "S01", "S01", "S01", "S01"),
        ("diffusion_model.img_in.weight", "IN", "IN", "BASE", "IMG_IN"),
        ("diffusion_model.vector_in.in_layer.weight", "IN", "IN", "BASE", "VECTOR_IN"),
        ("diffusion_model.txt_in.weight", "TXT", "IN", "BASE", "TXT_IN"),
        ("diffusion_model.final_layer.linear.weight", "OUT", "OUT", "BASE", "FINAL_LAYER"),
        ("diffusion_model.double_stream_modulation_img.lin.weight", "BASE", "BASE", "BASE", "DOUBLE_STREAM_MODULATION_IMG"),
        ("text_encoders.t5xxl.transformer.encoder.block.0.layer.0.weight", "BASE", "T5", "BASE", "CLIP"),
        ("text_encoders.clip_l.transformer.text_model.final.weight", "BASE", "CLIP", "BASE", "CLIP"),
        ("vae.decoder.conv_in.weight", "BASE", None, "BASE", None),
        ("something.else", None, None, None, None),
    ],
)  # fmt: skip
def test_the_key_maps_of_flux(key, mbw, supermerger, mecha, comfy):
    layout = layout_of(FLUX)
    assert [block_of(key, layout, key_map) for key_map in KEY_MAPS] == [mbw, supermerger, mecha, comfy]


@pytest.mark.parametrize(
    "keys, message",
    [
        ([f"{PREFIX}double_blocks.{i}.attn.qkv.weight" for i in (0, 1, 3)], "double_blocks.2 is missing"),
        ([f"{PREFIX}double_blocks.{i}.attn.qkv.weight" for i in (1, 2)], "double_blocks.0 is missing"),
        ([f"{PREFIX}double_blocks.999999.attn.qkv.weight"], "double_blocks.0 is missing"),
        ([f"{PREFIX}input_blocks.0.0.weight", f"{PREFIX}input_blocks.999999.0.weight", f"{PREFIX}output_blocks.0.0.w.b"], "limit of 1000"),
        ([f"{PREFIX}double_blocks.{'9' * 5000}.attn.qkv.weight"], "no numbered blocks"),
        ([f"{PREFIX}double_blocks.\u00b2.attn.qkv.weight"], "no numbered blocks"),
        ([], "no numbered blocks"),
        (["", ".", PREFIX, PREFIX + ".", PREFIX + "0", PREFIX + "0.0.0", PREFIX + "blocks..0..a"], "no numbered blocks"),
    ],
)  # fmt: skip
def test_keys_of_no_complete_model(keys, message):
    with pytest.raises(BlockError, match=message):
        layout_of(keys)


@pytest.mark.parametrize("name", [*LAYOUTS, "unet-6-0-6", "B60", "CR2-NR2-RR2-D8-S32", "MUSIC_ENCODER2-B30"])
def test_layouts_by_name(name):
    layout = as_layout(name)
    assert (
        layout.name == name
        and as_layout(layout) is layout
        and len(set(layout.blocks)) == len(layout.blocks) > 0
    )
    assert layout.describe() == f"{name} ({layout.spans()})"


@pytest.mark.parametrize(
    "name", ["", "sd9", "B", "B-", "-B2", "B2-", "unet-1-2-3", "b5", "B" + "9" * 99, "x" * 9999]
)
def test_unknown_layouts(name):
    with pytest.raises(BlockError, match=r"Available: sd1, sdxl, sd3"):
        as_layout(name)


def test_a_thousand_blocks_of_keys_are_fast():
    keys = [f"{PREFIX}transformer_blocks.{i}.part{j}.sub.weight" for i in range(60) for j in range(32)]
    started = time.process_time()
    layout = read_layout(keys)
    for key in keys:
        block_of(key, layout)
    assert time.process_time() - started < 0.25  # about 20 ms on an idle core
    assert layout.name == names.LAYOUTS["qwen_image"].name


def test_a_long_key_is_read_in_linear_time():
    started = time.process_time()
    with pytest.raises(BlockError):
        layout_of([PREFIX + "a." * 200_000, PREFIX + "a" * 1_000_000 + ".0.b.c"])
    assert time.process_time() - started < 5
