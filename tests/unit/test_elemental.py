"""The selector language, against supermerger's matching rule written down again, and on SDXL."""

import random

import pytest
from blockwork.blocks.keymap import block_of
from blockwork.blocks.names import SD1, SDXL, Stack, as_layout, named
from blockwork.merge import elemental
from blockwork.merge.errors import MergeError
from blockwork.tests.support.checked import checked

parse = checked(elemental.parse_selectors, elemental.check_selectors, MergeError)

UNET = "model.diffusion_model."
KEYS = [
    UNET + "input_blocks.0.0.weight",
    UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_out.0.bias",
    UNET + "input_blocks.8.0.in_layers.2.weight",
    UNET + "middle_block.1.proj_in.weight",
    UNET + "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
    UNET + "output_blocks.8.1.norm.weight",
    UNET + "out.2.weight",
    UNET + "time_embed.0.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
]


def expand(field: str, names: list[str]) -> list[str]:
    words = []
    for word in field.split():
        if "-" in word:
            low, high = sorted(names.index(part) for part in word.split("-"))
            words += names[low : high + 1]
        else:
            words.append(word)
    return words or [""]


def rule(text: str, key: str, block: str, alpha: float, names: list[str]) -> float:
    """The published rule: flags per field, NOT first negates, substring of key + block, the last entry wins."""
    for entry in text.replace("\n", ",").split(","):
        if entry.count(":") != 2:
            continue
        blocks, elements, ratio = (part.strip() for part in entry.split(":"))
        flags = []
        for words in (expand(blocks, names), elements.split() or [""]):
            negated = words[0] == "NOT"
            hit = any(word in key + block for word in words[negated:])
            flags.append(hit != negated)
        if all(flags):
            alpha = float(ratio)
    return alpha


@pytest.mark.parametrize("layout", [SD1, SDXL])
def test_the_published_rule_on_random_selectors(layout):
    names, draw = ["BASE", *layout.blocks, "VAE"], random.Random(4)
    elements = ["attn1", "attn2", "to_q", "to_out", "norm", "weight", "bias", "in_layers", "proj"]
    for _ in range(300):
        entries = []
        for _ in range(draw.randint(1, 4)):
            blocks = draw.sample(list(layout.blocks), draw.randint(0, 2))
            if draw.random() < 0.3:
                blocks.append("-".join(draw.sample(list(layout.blocks), 2)))
            chosen = draw.sample(elements, draw.randint(0, 2))
            blocks, chosen = (["NOT", *x] if x and draw.random() < 0.3 else x for x in (blocks, chosen))
            entries.append(f"{' '.join(blocks)}:{' '.join(chosen)}:{draw.uniform(-1, 2):.3f}")
        text = ", ".join(entries)
        found = parse(text, layout)
        for key in KEYS:
            block = block_of(key, layout, "supermerger") or "BASE"
            assert found.ratio(key, block, 0.5) == rule(text, key, block, 0.5, names), (text, key)


def test_examples_of_the_guide():
    found = parse("OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5", SD1)
    assert found.ratio(KEYS[5], "OUT03", 0.0) == 0.5
    assert found.ratio(KEYS[2], "IN04", 0.0) == 0.0
    assert parse("NOT OUT03:attn2:0.7", SD1).ratio(KEYS[5], "OUT03", 0.1) == 0.1
    assert parse("IN00-IN11::0.2\nIN04:to_out:0.9", SD1).ratio(KEYS[2], "IN04", 0.0) == 0.9
    assert parse("IN11-IN00:attn1:0.2", SD1).ratio(KEYS[1], "IN01", 0.0) == 0.2
    assert parse("::0.4", SD1).ratio(KEYS[8], "IN00", 0.0) == 0.4
    assert parse("", SD1).ratio(KEYS[0], "IN00", 0.3) == 0.3


def test_sdxl_blocks_are_sdxls():
    """supermerger's issue 468: OUT08 exists in SDXL and holds out., OUT09 does not exist."""
    key = UNET + "out.2.weight"
    assert parse("OUT08:out:0.5", SDXL).ratio(key, block_of(key, SDXL, "supermerger") or "", 0.0) == 0.5
    with pytest.raises(MergeError, match="not a range of blocks of sdxl"):
        parse("OUT07-OUT11:attn:0.5", SDXL)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("OUT03:attn2", "2 fields"),
        ("OUT03:attn2:0.5:1", "4 fields"),
        ("OUT03:attn2:half", "'half' is not a finite number"),
        ("OUT03:attn2:nan", "not a finite number"),
        ("IN00-IN99:attn2:0.5", "not a range of blocks"),
    ],
)
def test_malformed_entries_are_errors(text, told):
    with pytest.raises(MergeError, match=told):
        parse(text, SD1)


@pytest.mark.parametrize(
    "words, parts",
    [
        ("attn", {"img_attn.qkv", "txt_attn.proj"}),
        ("img", {"img_attn.qkv", "img_mlp.0", "img_mod.lin"}),
        ("mod", {"img_mod.lin", "txt_mod.lin"}),
        ("txt mlp", {"txt_attn.proj", "txt_mlp.2", "txt_mod.lin", "img_mlp.0"}),
        ("NOT mod", {"img_attn.qkv", "txt_attn.proj", "img_mlp.0", "txt_mlp.2", "linear1"}),
        ("lin", {"img_mod.lin", "txt_mod.lin", "linear1"}),
        ("mod.l", {"img_mod.lin", "txt_mod.lin"}),
    ],
)
def test_whole_names_in_transformers(words, parts):
    every = {
        "img_attn.qkv",
        "txt_attn.proj",
        "img_mlp.0",
        "txt_mlp.2",
        "img_mod.lin",
        "txt_mod.lin",
        "linear1",
    }
    found = parse(f"D00-D18:{words}:0.5", as_layout("flux"))
    key = "model.diffusion_model.double_blocks.3.{}.weight"
    assert {part for part in every if found.ratio(key.format(part), "D03") == 0.5} == parts


def test_whole_names_in_unets_match_attention_layers_of_any_number():
    found = parse("IN05-OUT05:attn:1", as_layout("sd1"))
    key = "model.diffusion_model.input_blocks.7.1.transformer_blocks.0.{}.weight"
    assert found.ratio(key.format("attn1.to_q"), "IN07") == found.ratio(key.format("attn2.to_k"), "IN07") == 1
    assert found.ratio(key.format("ff.net.2"), "IN07") is None
    assert parse(":mod:1", as_layout("sd1")).ratio(key.format("ff.net.2"), "IN07") is None


def test_a_block_is_not_found_in_the_name_of_another():
    stacks = (
        Stack("S", "single_blocks", 2),
        Stack("ENCODERS", "encoders", 2),
        Stack("DN", "down_blocks", 101),
    )
    layout = named(stacks)
    selectors = parse("ENC:attn:0.75, S01:attn:0.5, DN10:attn:0.25", layout)
    found = [
        selectors.ratio(f"diffusion_model.{path}.attn.weight", block, None)
        for path, block in (
            ("single_blocks.1", "S01"),
            ("encoders.1", "ENCODERS01"),
            ("down_blocks.10", "DN10"),
            ("down_blocks.100", "DN100"),
        )
    ]
    assert found == [0.5, 0.75, 0.25, None]
