"""Weight texts of transformers, the lists of the community, limits, and texts that cannot be read."""

import contextlib
import time

import pytest
from blockwork.blocks import numbers, presets
from blockwork.blocks.names import LAYOUTS, BlockError, Stack, as_layout, layout_of, named
from blockwork.blocks.weights import named_presets, number_text, parse, split_pair

FLUX, KLEIN, SD3 = as_layout("flux"), as_layout("klein_4b"), as_layout("sd3")


def ramp(count):
    """``count`` different numbers, and the text of them."""
    values = [i / 64 for i in range(count)]
    return values, ", ".join(map(number_text, values))


def test_lists_of_flux():
    values, text = ramp(61)
    read = parse(text, FLUX)
    assert read.values == tuple(values[3:60])
    assert dict(read.extra) == {"CLIP": values[0], "T5": values[1], "IN": values[2], "OUT": values[60]}
    values, text = ramp(58)
    assert parse(text, FLUX).values == tuple(values[1:]) and parse(text, FLUX).of("BASE", 9) == values[0]
    values, text = ramp(57)
    assert parse(text, FLUX).values == tuple(values) and parse(text, FLUX).extra == ()


def test_a_list_of_flux_on_chroma_names_what_flux_has():
    chroma = as_layout("chroma")
    values, text = ramp(61)
    read = parse(text, chroma, default=7.0)
    assert [read.of(block, 9) for block in FLUX.blocks] == values[3:60]
    assert not read.is_named("G00") and read.is_named("D00") and read.is_named("OUT")
    assert parse(read.text(), chroma) == read


@pytest.mark.parametrize(
    "name, count", [("sd3", 24), ("sd1", 25), ("klein_4b", 25), ("qwen_image", 60), ("sdxl", 19)]
)
def test_a_count_is_decided_by_the_model(name, count):
    layout = as_layout(name)
    values, text = ramp(count)
    assert parse(text, layout).values == tuple(values)
    values, text = ramp(count + 1)
    assert parse(text, layout).values == tuple(values[1:]) and parse(text, layout).of("BASE", 9) == values[0]
    values, text = ramp(count + 2)
    assert parse(text, layout).of("VAE", 9) == values[-1]


def test_25_numbers_are_sd1_with_one_model_and_klein_with_the_other():
    _, text = ramp(25)
    assert parse(text, KLEIN).of("S19", 9) == parse(text, "sd1").of("OUT11", 9) == 24 / 64
    assert parse(text, SD3).of("BASE", 9) == 0 and parse(text, SD3).of("J23", 9) == 24 / 64


@pytest.mark.parametrize(
    "text, layout, expected",
    [
        ("D00-D02=0.5, S37=1", "flux", {"D00": 0.5, "D01": 0.5, "D02": 0.5, "S37": 1}),
        ("D17-S01=0.5", "flux", {"D17": 0.5, "D18": 0.5, "S00": 0.5, "S01": 0.5}),
        ("d3=.5, D_4=1e-1", "flux", {"D03": 0.5, "D04": 0.1}),
        ("D00-02=1", "flux", {"D00": 1, "D01": 1, "D02": 1}),
        ("double_3=1, single_0-single_1=0.5", "flux", {"D03": 1, "S00": 0.5, "S01": 0.5}),
        ("DOUBLE03=1, SINGLE37=0.5", "flux", {"D03": 1, "S37": 0.5}),
        ("double_blocks.3=1, single_blocks.37.=0.5", "flux", {"D03": 1, "S37": 0.5}),
        (
            "layer_29=1, context_refiner_1=0.5, noise_refiner.0=0.25",
            "z_image",
            {"B29": 1, "CR01": 0.5, "NR00": 0.25},
        ),
        (
            "context_refiner=1, noise_refiner.=0.5",
            "z_image",
            {"CR00": 1, "CR01": 1, "NR00": 0.5, "NR01": 0.5},
        ),
        ("double_blocks=1, D01-D18=0", "flux", {"D00": 1, **{f"D{i:02}": 0 for i in range(1, 19)}}),
        ("middle_block=1, output_blocks.3=0.5", "sdxl", {"M00": 1, "OUT03": 0.5}),
        ("block_59=1, transformer_blocks.7=0.5", "qwen_image", {"B59": 1, "B07": 0.5}),
        ("IN23=1, joint_0=0.5", "sd3", {"J23": 1, "J00": 0.5}),
        ("input_4=1, unet_mid=0.5, output_0=0.25", "sdxl", {"IN04": 1, "M00": 0.5, "OUT00": 0.25}),
        ("NR=1, B28-B29=0.5", "z_image", {"NR00": 1, "NR01": 1, "B28": 0.5, "B29": 0.5}),
        ("flux: D05=1", "flux", {"D05": 1}),
        ("FLUX: D05=1", "flux", {"D05": 1}),
        ("sd2: IN05=1", "sd1", {"IN05": 1}),
        ("MY_OWN: IN05=1", "sd1", {"IN05": 1}),
    ],
)
def test_names(text, layout, expected):
    read = parse(text, layout)
    shape = as_layout(layout)
    assert {block: read.of(block, 9) for block in shape.blocks if read.is_named(block)} == expected
    assert all(
        value == expected.get(block, 0) for block, value in zip(shape.blocks, read.values, strict=True)
    )


def test_the_blocks_of_nested_stacks_by_their_own_names():
    layout = named((Stack("DN", "down_blocks", 6, (2, 4)), Stack("UP", "up_blocks", 6, (4, 2))))
    read = parse("down_blocks.1.3=1, up_blocks.0.0-up_blocks.1.0=0.5", layout)
    assert read.named == {"DN05", "UP00", "UP01", "UP02", "UP03", "UP04"}
    for wrong in ("down_blocks.0.2", "down_blocks.2.0", "down_blocks.0", "down_blocks.0.1.channelwise"):
        with pytest.raises(BlockError, match=f"Unknown block '{wrong}'"):
            parse(f"{wrong}=1", layout)


def test_the_only_stack_of_a_model_is_its_main_stack():
    layout = named((Stack("QUUX", "quux_blocks", 7),))
    assert parse("block_3=1, layer_0=0.5, quux_blocks.6=1", layout).named == {"QUUX00", "QUUX03", "QUUX06"}
    with pytest.raises(BlockError, match="Unknown block 'layer_0' for flux"):
        parse("layer_0=1", FLUX)


def test_names_outside_the_blocks_follow_base():
    read = parse("IN=1, BASE=0.5", FLUX)
    assert [read.of(name, 9) for name in ("IN", "TXT", "OUT", "BASE", "CLIP", "VAE")] == [
        1,
        0.5,
        0.5,
        0.5,
        0.5,
        9,
    ]
    assert read.is_named("TXT") and not read.is_named("VAE") and not read.is_named("D00")
    read = parse("IN=1", FLUX)
    assert read.of("TXT", 9) == 9 and not read.is_named("TXT") and not read.is_named("BASE")
    read = parse("0.25", FLUX)
    assert (
        read.of("TXT", 9) == 0.25 == read.of("S37", 9) and read.is_named("TXT") and not read.is_named("VAE")
    )


def test_comfy_names_of_the_model_itself():
    keys = [f"diffusion_model.double_blocks.{i}.a.b.weight" for i in range(3)]
    layout = layout_of([*keys, "diffusion_model.img_in.weight", "diffusion_model.final_layer.linear.weight"])
    assert parse("IMG_IN=0.5, final_layer.=1", layout).extra == (("FINAL_LAYER", 1.0), ("IMG_IN", 0.5))
    with pytest.raises(
        BlockError, match=r"'TXT_IN' for D3\. Blocks of this model: D00-D02\. Other names: .*IMG_IN"
    ):
        parse("TXT_IN=1", layout)


@pytest.mark.parametrize("name", list(LAYOUTS))
@pytest.mark.parametrize(
    "text",
    [
        "GRAD_V",
        "0.5",
        "SMOOTHSTEP, BASE=0.5, VAE=1",
        "ALL=0.25, {last}=1",
        "{last}=1, BASE=2",
        "0.5, {last}=1",
    ],
)
def test_texts_print_and_read_back_equal(name, text):
    layout = as_layout(name)
    read = parse(text.format(last=layout.blocks[-1]), layout)
    again = parse(read.text(), layout)
    assert again == read and again.rest == read.rest
    assert all(
        again.is_named(block) == read.is_named(block) for block in (*layout.blocks, "BASE", "VAE", "OUT")
    )


def test_a_list_of_a_layout_with_a_name_carries_it():
    text = parse("GRAD_V", KLEIN).text()
    assert text.startswith("klein_4b: 1, ")
    with pytest.raises(BlockError, match=r"for klein_4b \(D00-D04, S00-S19\), but this model is sd1 \(IN00"):
        parse(text, "sd1")


@pytest.mark.parametrize(
    "name", ["GRAD_V", "COSINE", "SMOOTHSTEP*3", "SMOOTHSTEP/2", "TRUE_CUBIC_HERMITE", "WRAP12", "OUT07"]
)
def test_presets_stretch_over_any_model(name):
    values = presets.preset(name, "sd1")
    stretched = presets.preset(
        name, named(as_layout("B49").stacks)
    )  # 49 blocks: each second one is one of the 25
    assert len(stretched) == 49 and stretched[::2] == pytest.approx(values, abs=1e-12)
    assert len(presets.preset(name, "qwen_image")) == 60
    assert presets.preset(name, "unet-6-0-6") == presets.preset(name, "B12")


def test_thirds():
    assert presets.preset("MIDDLE_THIRD", "B9") == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    total = [
        sum(column) for column in zip(*(presets.preset(name, "flux") for name in presets.THIRDS), strict=True)
    ]
    assert total == [1] * 57
    assert sum(presets.preset("LAST_THIRD")) == 8 and "LAST_THIRD" not in presets.names("sd1")
    assert presets.names("flux")[-3:] == list(presets.THIRDS)


@pytest.mark.parametrize(
    "text, layout, message",
    [
        ("M00=1e999", "sd1", r"'1e999' is beyond the range of numbers\. Weights must be finite"),
        ("1e999", "flux", "beyond the range"),
        ("-inf", "flux", "finite"),
        ("D00=nan", "flux", "finite"),
        ("D00=" + "9" * 5000, "flux", r"A number of 5000 characters was given; the limit is 64"),
        ("9" * 5000, "flux", "A number of 5000 characters"),
        ("D00=\u00b2", "flux", "is not a number"),
        ("D00=\u0661", "flux", "is not a number"),
        ("D\u0661=1", "flux", "Unknown block"),
        ("D00=1_0", "flux", "is not a number"),
        ("D00=-+1", "flux", "is not a number"),
        (
            "D19=1",
            "flux",
            r"Unknown block 'D19' for flux\. Blocks of this model: D00-D18, S00-S37\. Other names: BASE",
        ),
        ("IN05=1", "flux", "Unknown block 'IN05' for flux"),
        ("D05", "flux", r"'D05': write a block and its weight with =, as in D05=0\.75"),
        ("0.5, D00-D07", "flux", r"with =, as in D00-D07=0\.75"),
        ("double_blocks.3.img_attn=1", "flux", r"Unknown block 'double_blocks\.3\.img_attn'"),
        ("J00=1", "qwen_image", "Blocks of this model: B00-B59"),
        ("D00=1=2", "flux", "'1=2' is not a number"),
        ("D05-D03=1", "flux", "Write D03-D05"),
        ("D05-IN=1", "flux", "not a range of blocks"),
        ("D00: 1", "flux", "as in D00=0.75"),
        ("D: 1", "flux", "as in D=0.75"),
        ("IN: 1", "flux", "as in IN=0.75"),
        ("S00-S03: 1", "flux", "with ="),
        (
            ", ".join(["1"] * 60),
            "flux",
            r"60 weights are given\. Expected for flux: 57 numbers .*61 with CLIP, T5",
        ),
        ("flux: 0.5", "sd1", r"for flux .* but this model is sd1"),
        ("sd1: 0.5", "flux", r"for sd1 .* but this model is flux"),
        ("a" + " " * 20_000, "flux", "20001 characters; the limit is 10000"),
        ("D00=1", "any", "This model has no blocks"),
        ("", "any", "one number for the whole model"),
    ],
)
def test_texts_that_cannot_be_read(text, layout, message):
    with pytest.raises(BlockError, match=message) as raised:
        parse(text, layout)
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 9_999, " " * 9_999, "," * 9_999, "1," * 4_999, "a:" * 4_999, ":" * 9_999, "=" * 9_999, "-" * 9_999,
        "9" * 9_999, "9" * 9_998 + "x", "1e" * 4_999, "D00=" + " " * 9_000 + "x", "A" * 9_999 + "1", "a_" * 4_999, "ALL=1," * 1_600,
        "a" + "\t" * 9_999, "D00-" * 2_499, "a." * 4_999, "|" * 9_999,
    ],
)  # fmt: skip
def test_any_text_is_read_in_linear_time(text):
    started = time.process_time()
    for layout in (FLUX, "sd1"):
        with contextlib.suppress(BlockError):
            parse(text, layout)
    for other in (named_presets, split_pair):
        with contextlib.suppress(BlockError):
            other(text)
    assert time.process_time() - started < 2  # the scanner before took minutes for some of these


@pytest.mark.parametrize("text", ["1", "-0.5", ".25", "1.", "+1e-3", " 2 "])
def test_numbers(text):
    assert numbers.is_number(text) and numbers.number(text) == float(text)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1x", "1e", "--1", "1 2", "0x1", "1_0", "nan", "inf", "\u00b2", "\u0661", "1e400", "9" * 65],
)
def test_what_is_not_a_number(text):
    with pytest.raises(ValueError):
        numbers.number(text)


def test_whole_numbers():
    assert numbers.whole(" 042 ") == 42
    for text in ("", "-1", "1.0", "\u00b2", "\u0661", "9" * 65):
        with pytest.raises(ValueError):
            numbers.whole(text)


def test_off_bypasses_blocks_where_it_is_allowed():
    read = parse("D05=off, S00-S02=OFF, S01=0.5, IN=2", FLUX, default=1.0, bypass=True)
    assert read.off == {"D05", "S00", "S02"} and read.of("S01", 9) == 0.5 and read.of("D05", 9) == 1.0
    assert read.named == {"D05", "S00", "S01", "S02"}
    assert parse(read.text(), FLUX, default=1.0, bypass=True) == read
    full = parse("0.5, D05=off", FLUX, bypass=True)
    assert parse(full.text(), FLUX, bypass=True) == full and full.text().endswith("D05=off")
    with pytest.raises(BlockError, match="Use it in Scale Blocks"):
        parse("D05=off", FLUX)
    with pytest.raises(BlockError, match="BASE is not a block"):
        parse("BASE=off", FLUX, bypass=True)
