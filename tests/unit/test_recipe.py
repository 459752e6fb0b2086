"""Recipes: merge-board's and mbw_each's texts as they are, our superset, round trips, and errors with a place."""

import contextlib
import random
import time
from dataclasses import fields

import pytest
from blockwork.blocks.names import SD1
from blockwork.blocks.presets import preset
from blockwork.blocks.weights import parse as parse_weights
from blockwork.merge.errors import MergeError
from blockwork.merge.methods import METHODS
from blockwork.merge.recipe.grammar import CHOICES, Line, Recipe, check_portable, parse, to_text
from blockwork.merge.recipe.items import node_line
from blockwork.merge.recipe.scanner import RecipeError

# In the style of merge-board's documentation; the first is its README sample.
BOARD = [
    """# Sample Recipe
a14 = __SD14__ + __F222__, 0.5
a15 = __SD15__ + __F222__, 0.5, fp16
mix14 = __O1__ + __WD13__ + __SD14__, 1.0, safetensors
mix15 = __O2__ + __WD13__ + __SD14__, 1.0, fp16, safetensors

# variables
__F222__ # You can use F111 instead.
__SD14__ # use stable diffusion v1.5, as you like.
""",
    "O1 = A1 + B1, 0.1\nO2 = A2 + B2 + C2, 0.2\nO3 = A3 + __O1__, 0.3\nO4 = A4 + __SD15__, 0.4\nO5 = A5 + B5, 0.5, fp16\n",
    "__SD15__, put your sd1.5.\nmix = __SD15__ + wd-v1-3-float32, 0.3\n",
    "mix=modelA+modelB,0.5",
    "my mix = model A+ + model B, 0.5   # names may hold a plus when the separator has spaces\n",
    "# Recipe \nout = a + b, 0.123, safetensors\n\n# Variables(System) \n__O1__\n\n# Variables(User defined) \n__X__\n",
    "m = inpainting + custom + base, 1.0, fp16, safetensors",
    "\n".join(f"step{i} = {'base' if i == 1 else f'__O{i - 1}__'} + m{i}, 0.{i:02}" for i in range(1, 16)),
    "sig = A + B, 0.28471\n  # an indented comment\nws = __O1__ + A + B , 1 , fp16",
    "v = anything-v3.0 [2700c435] + Anything-V3.0-pruned.ckpt, .5, safetensors, fp16",
]


@pytest.mark.parametrize("text", BOARD)
def test_merge_board_recipes_parse_and_print_back_equal(text):
    recipe = parse(text)
    assert parse(to_text(recipe)) == recipe
    assert all(
        line.method == ("add_difference" if len(line.models) == 3 else "weighted_sum")
        for line in recipe.lines
    )


def test_merge_board_readme_sample_in_full():
    recipe = parse(BOARD[0])
    assert [line.output for line in recipe.lines] == ["a14", "a15", "mix14", "mix15"]
    assert recipe.lines[0].models == ("__SD14__", "__F222__") and recipe.lines[0].dtype == "same"
    assert recipe.lines[3] == Line(
        "mix15", ("__O2__", "__WD13__", "__SD14__"), "add_difference", (("alpha", "1.0"),), dtype="fp16"
    )
    assert recipe.free() == ("__SD14__", "__F222__", "__SD15__", "__WD13__")
    bound = recipe.bind({"__SD14__": "sd14.safetensors", "F222": "f222.safetensors"})
    assert bound.free() == ("__SD15__", "__WD13__")
    assert bound.sources()[:2] == ("sd14.safetensors", "f222.safetensors")


def test_merge_board_names_with_pluses_brackets_and_more_than_ten_lines():
    assert parse(BOARD[4]).lines[0].models == ("model A+", "model B")
    assert parse(BOARD[9]).lines[0].models == ("anything-v3.0 [2700c435]", "Anything-V3.0-pruned.ckpt")
    assert len(parse(BOARD[7]).lines) == 15
    assert parse(BOARD[2]).notes == (("__SD15__", "put your sd1.5."),)


def weights(text: str) -> dict[str, float]:
    found = parse_weights(text, SD1)
    return {**dict(zip(SD1.blocks, found.values, strict=True)), **dict(found.extra)}


def test_mbw_each_readme_lines():
    text = """O=merge/test04/SD15-75-IN_00, IN_A_00=0.75
Preset_Weights=ALL_A, O=merge/test06/SD15-WD13-2-8-OUT_11, OUT_A_11=0.2, OUT_B_11=0.8, Model_A=sd-v1-5-pruned, Model_B=wd-v1-3-float32
"""
    first, second = parse(text).lines
    assert first.output == "merge/test04/SD15-75-IN_00" and first.method == "each"
    assert first.models == ("__A__", "__B__")
    m_a, m_b = (weights(dict(first.ratios)[name]) for name in ("m_a", "m_b"))
    assert m_a == {**dict.fromkeys(SD1.blocks, 1.0), "IN00": 0.75, "BASE": 1.0} and set(m_b.values()) == {0.0}
    assert second.models == ("sd-v1-5-pruned", "wd-v1-3-float32")
    m_a, m_b = (weights(dict(second.ratios)[name]) for name in ("m_a", "m_b"))
    assert (m_a["OUT11"], m_b["OUT11"], m_a["IN00"], m_b["IN00"]) == (0.2, 0.8, 1.0, 0.0)
    assert parse(to_text(parse(text))) == parse(text)


def test_mbw_each_later_items_win_and_presets_go_to_b():
    line = parse("IN_A_00=0.3, preset_weights=GRAD_V, M_B_00=0.4, base_alpha=0.25, O=x").lines[0]
    m_a, m_b = (weights(dict(line.ratios)[name]) for name in ("m_a", "m_b"))
    grad = dict(zip(SD1.blocks, preset("GRAD_V"), strict=True))
    assert m_b == {**grad, "M00": 0.4, "BASE": 0.25}
    assert m_a == {**{block: 1 - share for block, share in grad.items()}, "BASE": 0.75}


def test_mbw_each_lines_of_one_item():
    line = parse("IN_A_00=0.75").lines[0]
    assert (
        line.method == "each" and line.output == "each1" and weights(dict(line.ratios)["m_a"])["IN00"] == 0.75
    )


def test_our_superset():
    text = '''
__A__ = "my model, v2.safetensors"
out = __A__ + b + c, alpha=[GRAD_V, IN00=0.75, BASE=0.2, CLIP=0.1, VAE=0], beta=0.5, method=sum_twice, elemental="OUT03 OUT04:attn2:0.5, NOT M00:attn1:0.2", dtype=bf16, key_map=mecha, ema=drop, prune=yes, position_ids=reset, extra_keys=copy, nan=keep_a, vae=nice
t = __O1__ + b + c + d, 0.7, method=ties, density=0.3, seed=42
one = b, alpha=IN04=0.75
pin b = 00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF
'''  # fmt: skip
    recipe = parse(text)
    line = recipe.lines[0]
    assert dict(line.ratios)["alpha"] == "GRAD_V, IN00=0.75, BASE=0.2, CLIP=0.1, VAE=0"
    assert line.elemental == "OUT03 OUT04:attn2:0.5, NOT M00:attn1:0.2" and line.vae == "nice"
    assert recipe.sources() == ("my model, v2.safetensors", "b", "c", "nice", "d")
    assert recipe.lines[1].options == (("density", 0.3),) and recipe.lines[1].seed == 42
    assert recipe.lines[2].method == "scale"
    assert dict(recipe.pins)["b"].endswith("aabbccddeeff")
    assert parse(to_text(recipe)) == recipe and hash(recipe)


def test_random_recipes_print_back_equal():
    draw = random.Random(11)
    names = [
        "a",
        "B 2",
        'quo"te',
        "comma, name",
        "plus+plus",
        " + ",
        "hash#",
        "eq=ual",
        "[x]",
        "_u",
        "back\\slash",
        "7",
    ]
    texts = [
        "0.5",
        "-1.25",
        "GRAD_V",
        "SMOOTHSTEP*2",
        "GRAD_V, IN00=0.75",
        ", ".join(["0.1"] * 25),
        "IN00-IN03=1",
    ]
    for _ in range(400):
        lines = []
        for number in range(draw.randint(1, 4)):
            method = METHODS[draw.choice(list(METHODS))]
            count = draw.randint(method.least, method.most or 7)
            left_out = 1 if method.complement and draw.random() < 0.5 else 0
            models = [draw.choice([*names, *(f"__O{i + 1}__" for i in range(number))]) for _ in range(count)]
            chosen = {name: draw.choice(choices) for name, choices in CHOICES.items()}
            lines.append(
                Line(
                    draw.choice(names),
                    tuple(models),
                    method.name,
                    tuple((name, draw.choice(texts)) for name in method.ratios[left_out:]),
                    tuple((name, draw.random() * 10) for name in method.options if draw.random() < 0.5),
                    draw.choice(["", "OUT03:attn2:0.5", 'NOT IN00:a"b:1, ::0.2']),
                    draw.choice([0, 5, 2**40]),
                    draw.choice(["", "v ae", "__V__"]),
                    **chosen,
                )
            )
        pins = tuple((name, f"{draw.getrandbits(256):064x}") for name in draw.sample(names, 2))
        recipe = Recipe(
            tuple(lines), (("__V__", draw.choice(names)),), (("__N__", "a note, with commas"),), pins
        )
        assert parse(to_text(recipe)) == recipe
    assert {field.name for field in fields(Line)} >= set(CHOICES)


@pytest.mark.parametrize(
    ("text", "line", "column", "told"),
    [
        ("", 1, 1, "no merge line"),
        ("# only a comment", 2, 1, "no merge line"),
        ("x", 1, 1, "Expected `output = A + B, ratio`"),
        ("x = A + B", 1, 1, "needs alpha"),
        ("= A + B, 1", 1, 1, "has no name"),
        ("x = A + , 0.5", 1, 8, "model name is missing"),
        ("a = A + B, 0.5\nx = A + B, 0.5, hm", 2, 17, "Cannot read 'hm'"),
        ("x = A + B, 0.5, 0.6", 1, 17, "Cannot read '0.6'"),
        ("x = A + __O1__, 0.5", 1, 9, "not the result of an earlier line"),
        ("a = A + B, 0.5\nb = __O3__ + B, 0.5", 2, 5, "Available: __O1__ to __O1__"),
        ("x = A + B, 0.5, method=foo", 1, 24, "Unknown method 'foo'"),
        ("x = A + B, 0.5, dtype=fp7", 1, 23, "dtype must be one of"),
        ("x = A + B, foo=3, 0.5", 1, 12, "has no 'foo'"),
        ("x = A + B, alpha=", 1, 18, "alpha is empty"),
        ("x = A + B, alpha=[1,2", 1, 18, "no closing ]"),
        ('x = "A + B, 0.5', 1, 5, 'no closing "'),
        ("x = A + B + C, 0.5, method=slerp", 1, 5, "takes 2 models, 3 are given"),
        ("x = A + B, 0.5, method=ties, density=high", 1, 38, "density must be a number"),
        ("x = A + B, 0.5, seed=-3", 1, 22, "whole number"),
        ("_x_ = A\ny = A + B, 1", 1, 1, "scale needs alpha"),
        ("__O1__ = file\ny = A + B, 1", 1, 1, "cannot be bound"),
        ("O=x, IN_A_12=3", 1, 6, "Unknown mbw_each name"),
        ("O=x, IN_A_01=abc", 1, 14, "'abc' is not a number"),
        ("O=x, IN_A_01=nan", 1, 14, "'nan' is not a number"),
        ("x = A + B, alpha=0.5, Alpha=0.6", 1, 23, "alpha is given twice"),
        ("x = A + B, 0.5, alpha=0.6", 1, 17, "alpha is given twice"),
        ("x = A + B, 0.5, fp16, dtype=bf16", 1, 23, "dtype is given twice"),
        ("x = A + B, 0.5, nan=error, nan=keep_a", 1, 28, "nan is given twice"),
        ("x = A + B, 0.5, method=ties, method=dare", 1, 30, "method is given twice"),
        ("__A__ = x\n__A__ = y\no = __A__, 1", 2, 1, "bound twice"),
        ("__A__, x\n__A__, y\no = __A__, 1", 2, 1, "two notes"),
        (f"pin b = {'0' * 64}\npin b = {'1' * 64}\no = a, 1", 2, 1, "pinned twice"),
        ("x = A + B, 0.5, seed=\u00b2", 1, 22, "whole number"),
        ("x = A + B, 0.5, seed=\u0663", 1, 22, "whole number"),
        (f"x = A + B, 0.5, seed={'9' * 5000}", 1, 22, "whole number"),
        ("x = A + B, 1e309", 1, 12, "beyond the range"),
        ("x = A + B, alpha=1e309", 1, 18, "beyond the range"),
        ("x = A + B, -+nan", 1, 12, "Cannot read '-+nan'"),
        ("x = A + B, 0.5, method=ties, density=1e309", 1, 38, "beyond the range"),
        ("x = A + B, 0.5, method=ties, density=-+nan", 1, 38, "not a number"),
        ("O=x, IN_A_01=1e999", 1, 14, "beyond the range"),
        (f"x = {'a' * 10_000}, 0.5", 1, 1, "the limit is 10000"),
        ("x = a, 1\n" * 120_000, 1, 1, "the limit is 1000000"),
        ("O=x, preset_weights=GRADV", 1, 21, "Did you mean GRAD_V"),
    ],
    ids=range(44),
)
def test_malformed_recipes_name_line_and_column(text, line, column, told):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)
    if text:
        assert f"Recipe line {line}, column {column}" in str(caught.value)


def test_names_that_begin_with_an_underscore_are_merges():
    recipe = parse("_mix = a, 0.5\n__mix = a + b, 0.5\n__X__ = file\n__X__, a note")
    assert [line.output for line in recipe.lines] == ["_mix", "__mix"]
    assert recipe.variables == (("__X__", "file"),) and recipe.notes == (("__X__", "a note"),)
    assert parse(to_text(recipe)) == recipe


HOSTILE = [
    "pin" + " " * 9000 + "x",
    "pin" + " =" * 4500,
    "a" + " " * 9000 + "b",
    "=" * 9000,
    "," * 9000,
    "+ " * 4500,
    '"' * 9000,
    "[" * 9000,
    "=[" * 4500,
    "#" * 9000,
    "__" + "a_" * 4400,
    "o = a, " + "alpha=1, " * 1000,
    "O=x, " + "IN_A_01=1, " * 800,
    "o = a, elemental=" + '"\\' * 3000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines_are_read_in_linear_time(text: str):
    """Ten lines of 9,000 characters; each of these took from seconds to hours when scanning was quadratic or cubic."""
    start = time.process_time()
    with contextlib.suppress(RecipeError):
        parse("\n".join([text] * 10))
    assert time.process_time() - start < 1


def test_the_fields_of_a_node_are_not_recipe_text():
    line = node_line(
        "o", ("a, b", "__X__ + c"), "ties", {"alpha": "0.5"}, "density=0.3", elemental="IN00:x:1", vae="v"
    )
    assert line.models == ("a, b", "__X__ + c") and line.options == (("density", 0.3),)
    for options in (
        "method=slerp",
        "density=0.3, vae=/etc/passwd",
        "dtype=fp16",
        "0.5",
        "density=0.3, density=0.4",
    ):
        with pytest.raises(RecipeError) as caught:
            node_line("o", ("a", "b"), "ties", {"alpha": "0.5"}, options)
        assert "Recipe line" not in str(caught.value)
    with pytest.raises(RecipeError, match="takes 2 models, 3 are given"):
        node_line("o", ("a", "b", "c"), "slerp", {"alpha": "0.5"}, "")
    with pytest.raises(MergeError, match="empty"):
        node_line("o", ("a", "b"), "slerp", {"alpha": " "}, "")


def test_a_recipe_that_cannot_be_read_back_is_refused():
    good = Recipe((Line("o", ("a",), "scale"),))
    check_portable(good)
    with pytest.raises(MergeError, match="not the result of an earlier line"):
        check_portable(Recipe((Line("o", ("__O5__",), "scale"),)))
    for output in ("x\x85y", "a\u2028b"):
        with pytest.raises(MergeError, match="cannot be written"):
            check_portable(Recipe((Line(output, ("a",), "scale"),)))


def test_methods_of_many_models_take_any_number():
    text = "o = " + " + ".join(f"m{n}" for n in range(12)) + ", 0.5, method=ties"
    assert len(parse(text).lines[0].models) == 12
