"""The block-spec grammar: every dialect names the same layers, and errors point at the place."""

import contextlib
import random
import time
from types import SimpleNamespace

import pytest
import torch
from blockwork.blocks import spec
from blockwork.blocks.names import BlockError
from blockwork.blocks.spec import Setting, SpecError, Window
from blockwork.blocks.spec_check import check
from blockwork.blocks.walk import ModelBlocks, NotAUNet, stack, walk
from blockwork.tests.support.checked import checked

parse = checked(spec.parse, check, BlockError)


class Downsample:
    pass


class Upsample:
    pass


class Residual:
    pass


def transformer(depth: int, context: int) -> SimpleNamespace:
    weight = torch.empty(8, context, device="meta")
    layer = SimpleNamespace(attn2=SimpleNamespace(to_k=SimpleNamespace(weight=weight)))
    return SimpleNamespace(transformer_blocks=[layer] * depth)


def block(depth: int, context: int, *extra: object) -> list[object]:
    return [Residual(), *([transformer(depth, context)] if depth else []), *extra]


def sd1(width: int = 768) -> SimpleNamespace:
    """Four levels of two (down) and three (up) blocks, no attention at the lowest."""
    down = [[Residual()]]
    for level in range(4):
        down += [block(int(level < 3), width), block(int(level < 3), width)]
        down += [[Downsample()]] if level < 3 else []
    up = []
    for level in range(4):
        depth = int(level > 0)
        last = [Upsample()] if level < 3 else []
        up += [block(depth, width), block(depth, width), block(depth, width, *last)]
    return SimpleNamespace(input_blocks=down, middle_block=block(1, width), output_blocks=up)


def sdxl() -> SimpleNamespace:
    """Three levels; 2 and 10 layers per block, none at the highest level."""
    depths = (0, 2, 10)
    down = [[Residual()]]
    for level, depth in enumerate(depths):
        down += [block(depth, 2048), block(depth, 2048)]
        down += [[Downsample()]] if level < 2 else []
    up = []
    for level, depth in enumerate(reversed(depths)):
        last = [Upsample()] if level < 2 else []
        up += [block(depth, 2048), block(depth, 2048), block(depth, 2048, *last)]
    return SimpleNamespace(input_blocks=down, middle_block=block(10, 2048), output_blocks=up)


SD1 = walk(sd1())
SDXL = walk(sdxl())
SD1_NAMES = [
    "IN01",
    "IN02",
    "IN04",
    "IN05",
    "IN07",
    "IN08",
    "M00",
    "OUT03",
    "OUT04",
    "OUT05",
    "OUT06",
    "OUT07",
    "OUT08",
    "OUT09",
    "OUT10",
    "OUT11",
]
COARSE = ["IN07", "IN08", "M00", "OUT03", "OUT04", "OUT05"]


def named(text: str, blocks: ModelBlocks = SD1) -> list[str]:
    """Block names of the layers a spec names (with the inner index where a block has several)."""
    out = []
    for side, number, inner in parse(text, blocks).settings:
        block = blocks.find(side, number)
        assert block is not None
        out.append(block.name if block.depth == 1 else f"{block.name}.{inner}")
    return out


def test_walk_reads_the_blocks_of_sd1_and_sdxl():
    assert [block.name for block in SD1.attending] == SD1_NAMES
    assert [block.index for block in SD1.attending] == list(range(16))
    assert [(b.name, b.depth) for b in SDXL.attending] == [
        *[("IN04", 2), ("IN05", 2), ("IN07", 10), ("IN08", 10), ("M00", 10)],
        *[("OUT00", 10), ("OUT01", 10), ("OUT02", 10), ("OUT03", 2), ("OUT04", 2), ("OUT05", 2)],
    ]
    assert len(SDXL.sub_blocks) == 70
    assert [block.diffusers for block in SDXL.attending][5:8] == [
        f"up_blocks.0.attentions.{i}" for i in range(3)
    ]
    assert [block.plus for block in SD1.attending][4:8] == [
        *[(16, "down", 0), (16, "down", 1), (8, "down", 0), (16, "up", 0)]
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IN07", ["IN07"]),
        ("in7", ["IN07"]),
        ("MID", ["M00"]),
        ("M00", ["M00"]),
        ("middle:0", ["M00"]),
        ("mid_block", ["M00"]),
        ("IN00-OUT11", SD1_NAMES),
        ("OUT03-OUT11(+2)", ["OUT03", "OUT05", "OUT07", "OUT09", "OUT11"]),
        ("input:7", ["IN07"]),
        ("input:4-8", ["IN04", "IN05", "IN07", "IN08"]),
        ("d2", ["IN04"]),
        ("m0, u0", ["M00", "OUT03"]),
        ("idx:6", ["M00"]),
        ("idx:4-6", ["IN07", "IN08", "M00"]),
        ("up_blocks.1.attentions.1", ["OUT04"]),
        ("up_blocks.1", ["OUT03", "OUT04", "OUT05"]),
        ("(16,down,1)", ["IN08"]),
        ("(16,down,1)-(8,down,0)", ["IN08", "M00"]),
        ("all", SD1_NAMES),
        ("coarse", COARSE),
        ("8, 16", COARSE),
        ("fine", [name for name in SD1_NAMES if name not in COARSE]),
        ("IN01; _", SD1_NAMES),
        ("down\nmid", SD1_NAMES[:7]),
    ],
)
def test_every_dialect_names_the_layers_of_sd1(text: str, expected: list[str]):
    assert named(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("output:1.3-5", ["OUT01.3", "OUT01.4", "OUT01.5"]),
        ("u1.3-5", ["OUT01.3", "OUT01.4", "OUT01.5"]),
        ("OUT01.9", ["OUT01.9"]),
        ("up_blocks.0.attentions.1.transformer_blocks.3", ["OUT01.3"]),
        ("IN04", ["IN04.0", "IN04.1"]),
        ("d2.2-8(+3)", ["IN07.2", "IN07.5", "IN07.8"]),
        ("M00.0-1, IN05.1", ["IN05.1", "M00.0", "M00.1"]),
    ],
)
def test_inner_layers_of_sdxl(text: str, expected: list[str]):
    assert named(text, SDXL) == expected


def test_weights_parts_and_windows():
    settings = parse("IN07=0.3@0-0.4, IN07 = -1.5 @ 0.4-1 /k, M00@s3-8/v", SD1).settings
    assert settings["input", 7, 0] == (
        Setting(0.3, "kv", Window(0, 0.4)),
        Setting(-1.5, "k", Window(0.4, 1.0)),
    )
    assert settings["middle", 0, 0] == (Setting(1.0, "v", Window(3, 8, "step")),)


def test_the_later_item_wins_and_the_rest_comes_last():
    weights = parse("_=0.1, all=0.5, IN07=2", SD1).weights
    assert weights["input", 7, 0] == 2
    assert weights["middle", 0, 0] == 0.5
    weights = parse("IN07=2, _=0.1", SD1).weights
    assert (weights["input", 7, 0], weights["output", 11, 0]) == (2, 0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("M00/k, M00/v", [(1, "k", None), (1, "v", None)]),
        ("M00, M00/v=0.5", [(1, "k", None), (0.5, "v", None)]),
        ("all=0.3, M00@0.2-0.4", [(0.3, "kv", (0, 0.2)), (0.3, "kv", (0.4, 1)), (1, "kv", (0.2, 0.4))]),
        ("M00@0-0.6=0.3, M00@0.5-1=0.7", [(0.3, "kv", (0, 0.5)), (0.7, "kv", (0.5, 1))]),
        ("M00@0-0.2, M00@0.5-1/k", [(1, "kv", (0, 0.2)), (1, "k", (0.5, 1))]),
        ("M00@0-0.5, M00=2", [(2, "kv", None)]),
        ("M00, M00@s2-4=0", [(1, "kv", (0, 2)), (1, "kv", (4, 10000)), (0, "kv", (2, 4))]),
        ("_@0-0.5=0.2, _@0.5-1", [(0.2, "kv", (0, 0.5)), (1, "kv", (0.5, 1))]),
    ],
)
def test_a_later_item_takes_over_only_where_the_two_meet(text, expected):
    settings = parse(text, SD1).settings["middle", 0, 0]
    read = [(s.weight, s.part, s.window and (s.window.start, s.window.end)) for s in settings]
    assert read == expected


def test_settings_of_a_layer_never_meet():
    """The law, over random specs: at each time and in each half one setting at most, that of the last item."""
    draw = random.Random(0)
    for _ in range(300):
        items = []
        for _ in range(draw.randint(1, 6)):
            start, end = sorted(draw.sample(range(11), 2))
            window = draw.choice([None, (start / 10, end / 10)])
            items.append((draw.choice(["k", "v", "kv"]), window, draw.randint(1, 9)))
        text = ", ".join(
            f"M00={weight}/{part}" + (f"@{window[0]}-{window[1]}" if window else "")
            for part, window, weight in items
        )
        settings = parse(text, SD1).settings["middle", 0, 0]
        for half in "kv":
            for moment in (step / 20 + 0.01 for step in range(20)):
                wanted = [w for part, at, w in items if half in part and (not at or at[0] <= moment < at[1])][
                    -1:
                ]
                got = [
                    s.weight
                    for s in settings
                    if half in s.part and (s.window is None or s.window.start <= moment < s.window.end)
                ]
                assert got == wanted, text


def full_width(text: str) -> str:
    """The text as a Japanese keyboard types it."""
    return text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: "\u3000"})


def test_full_width_text_reads_as_ascii():
    text = "IN07=0.5/k, M00@0-0.4; (16,down,1)"
    assert parse(full_width(text), SD1).settings == parse(text, SD1).settings
    assert parse("IN07\u3001M00", SD1).settings == parse("IN07, M00", SD1).settings


@pytest.mark.parametrize(
    "text",
    [
        ", ".join(["11111"] * 10) + " x",
        "input:" * 600,
        "M00" + " " * 3900 + "x",
        "(" * 3900,
        "(+" * 1900,
        "1" * 3990 + "x",
        "M00=" + "1" * 3990,
        "M00@" + "1" * 1990 + "-" + "1" * 1900,
        ", ".join(f"all@0.{n}-0.{n + 1}" for n in range(100, 400)),
        "x" * 1_000_000,
    ],
)
def test_no_text_takes_long(text):
    start = time.process_time()
    with contextlib.suppress(SpecError):
        parse(text, SD1)
    assert time.process_time() - start < 1.0


def test_suggestions():
    for text, meant in (("middle", "mid"), ("output", "up"), ("inputs", "down"), ("0.5", "all=0.5")):
        with pytest.raises(SpecError, match=f"Did you mean {meant}"):
            parse(text, SD1)


def test_the_native_size_comes_from_the_family_or_the_configuration():
    """A family is told by its prompt's width; a small model by the size in its configuration (16: M00 at 2)."""
    small = sd1(128)
    assert [b.resolution for b in walk(small, 16).attending if b.side == "middle"] == [2]
    assert [b.resolution for b in walk(sd1(), 32).attending if b.side == "middle"] == [8]


def test_transformers_have_one_row_of_blocks():
    anima = stack("Anima", [f"blocks.{number}" for number in range(28)], 1024)
    assert list(parse("B00, B07-B09, blocks.11, idx:27", anima).weights) == [
        ("block", n, 0) for n in (0, 7, 8, 9, 11, 27)
    ]
    assert len(parse("all=0.5", anima).settings) == 28
    assert len(parse("b0-b27(+2)", anima).settings) == 14
    for text in ("IN07", "coarse", "M00", "B28"):
        with pytest.raises(SpecError, match=r"B00 B01.*Groups: all\."):
            parse(text, anima)


def test_a_list_of_block_weights_is_a_spec_too():
    given = parse(", ".join(["0.25"] * 24 + ["0"]), SD1)
    assert named(given.text) == SD1_NAMES[:-1]
    assert set(given.weights.values()) == {0.25}
    assert given.skipped == ("IN00", "IN03", "IN06", "IN09", "IN10", "IN11", "OUT00", "OUT01", "OUT02")
    assert named("GRAD_V") == [name for name in SD1_NAMES if name != "M00"]
    assert len(parse(",".join(["0.5"] * 19), SDXL).weights) == 70
    assert named("OUT07") == ["OUT07"]  # also the name of a preset: a block comes first


@pytest.mark.parametrize(
    ("text", "marked", "message"),
    [
        ("IN07, IN12=0.5", "IN12", "Unknown block"),
        ("IN07, IN03", "IN03", "no cross-attention"),
        ("IN09-IN11", "IN09-IN11", "no cross-attention"),
        ("OUT03-IN07", "OUT03-IN07", "backwards; write IN07-OUT03"),
        ("IN07=x", "=x", "Cannot read"),
        ("IN07=1e999", "=1e999", "between -100 and 100"),
        ("IN07=1e300", "=1e300", "between -100 and 100"),
        ("IN07=1=2", "=2", "given twice"),
        ("M00, M00@0-0.5, M00@s3-5", "M", "in steps and in shares"),
        ("IN" + "9" * 50, "IN" + "9" * 50, "Unknown block"),
        ("IN07@0.5-0.2", "@0.5-0.2", "empty"),
        ("IN07@0-7", "@0-7", "beyond 1.0"),
        ("IN07@s0.5-2", "@s0.5-2", "whole numbers"),
        ("M00, IN07/q", "/q", "Unknown part"),
        ("M00, IN04.5", "IN04.5", "layers 0-0"),
        ("IN07 M00", "M00", "Cannot read"),
        ("(16,down,9)", "(16,down,9)", "Unknown block"),
        ("all(+0)", "(+0)", "A step counts blocks"),
        ("input:4-99", "99", "Unknown block 'input:99'"),
        ("M00\nIN7, foo\nM00", "foo", "Unknown block"),
        ("", "", "empty"),
    ],
)
def test_errors_point_at_the_place_and_name_the_blocks(text: str, marked: str, message: str):
    with pytest.raises(SpecError, match=message) as caught:
        parse(text, SD1)
    lines = str(caught.value).splitlines()
    start, length = lines[2].index("^"), len(lines[2].strip())
    assert lines[1][start : start + length] == marked
    assert all(name in lines[3] for name in SD1_NAMES)


def test_other_models_say_what_they_are():
    with pytest.raises(NotAUNet, match="is not a U-Net"):
        walk(SimpleNamespace(joint_blocks=[]))
    without = sd1()
    without.input_blocks = [[part for part in b if hasattr(part, "none")] for b in without.input_blocks]
    without.middle_block = without.output_blocks = []
    with pytest.raises(NotAUNet, match="no cross-attention"):
        walk(without)
