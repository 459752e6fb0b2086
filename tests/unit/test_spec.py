"""The block-spec grammar: every dialect names the same layers, and errors point at the place."""

from types import SimpleNamespace

import pytest
import torch
from blockwork.blocks.spec import Setting, SpecError, Window, parse
from blockwork.blocks.walk import NotAUNet, UNetBlocks, walk


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


def sd1() -> SimpleNamespace:
    """Four levels of two (down) and three (up) blocks, no attention at the lowest."""
    down = [[Residual()]]
    for level in range(4):
        down += [block(int(level < 3), 768), block(int(level < 3), 768)]
        down += [[Downsample()]] if level < 3 else []
    up = []
    for level in range(4):
        depth = int(level > 0)
        last = [Upsample()] if level < 3 else []
        up += [block(depth, 768), block(depth, 768), block(depth, 768, *last)]
    return SimpleNamespace(input_blocks=down, middle_block=block(1, 768), output_blocks=up)


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


def named(text: str, blocks: UNetBlocks = SD1) -> list[str]:
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
    assert parse("IN07@0-0.5=1, IN07@0.3-0.9=2", SD1).settings["input", 7, 0] == (
        Setting(2, "kv", Window(0.3, 0.9)),
    )


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
    with pytest.raises(NotAUNet, match="MM-DiT"):
        walk(SimpleNamespace(joint_blocks=[]))
    without = sd1()
    without.input_blocks = [[part for part in b if hasattr(part, "none")] for b in without.input_blocks]
    without.middle_block = without.output_blocks = []
    with pytest.raises(NotAUNet, match="no cross-attention"):
        walk(without)
