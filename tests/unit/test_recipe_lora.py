"""LoRA terms of recipes: the grammar, round trips, names that stay names, errors with a place."""

import random

import pytest
from blockwork.merge.errors import MergeError
from blockwork.merge.recipe.grammar import check_portable, parse, to_text
from blockwork.merge.recipe.model import Line, LoraTerm
from blockwork.merge.recipe.scanner import RecipeError


def line(text: str) -> Line:
    recipe = parse(text)
    assert parse(to_text(recipe)) == recipe, to_text(recipe)
    return recipe.lines[-1]


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("lora(x)", LoraTerm("x")),
        ("lora(x, 0.8)", LoraTerm("x", 0.8)),
        ("lora( styles/x.safetensors , -0.5 )", LoraTerm("styles/x.safetensors", -0.5)),
        ("lora(x, 0.8, [1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0])", LoraTerm("x", 0.8, "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0")),
        ("lora(x, 0.8, [MIDD, IN04=0.5])", LoraTerm("x", 0.8, "MIDD, IN04=0.5")),
        ("lora(x, MIDD)", LoraTerm("x", 1.0, "MIDD")),
        ("lora(x, weights=[IN04=0.5], strength=2)", LoraTerm("x", 2.0, "IN04=0.5")),
        ("lora(x (v2), 0.8)", LoraTerm("x (v2)", 0.8)),
        ('lora("a, b) + c #1", 0.8)', LoraTerm("a, b) + c #1", 0.8)),
        ("lora(__L__, 0.8)", LoraTerm("__L__", 0.8)),
    ],
)  # fmt: skip
def test_a_term_is_read_and_printed_back_equal(term, expected):
    for formula in (f"A + {term}", f"A+{term}", f"{term} + A"):
        found = line(f"mix = {formula}")
        assert found == Line("mix", ("A",), "scale", (("alpha", "1"),), loras=(expected,)), formula
    found = line(f"mix = A + {term} + B + lora(y, 1), 0.3, dtype=fp16  # a comment")
    assert (found.models, found.method, found.dtype) == (("A", "B"), "weighted_sum", "fp16")
    assert found.loras == (expected, LoraTerm("y", 1.0)) and dict(found.ratios) == {"alpha": "0.3"}


def test_other_names_with_brackets_stay_names():
    found = line("mix (final) = my model (v2) + other lora(s) [81761151] + c(, 1.0")
    assert found.models == ("my model (v2)", "other lora(s) [81761151]", "c(") and not found.loras
    quoted = line('mix = "lora(x, 1)" + B, 0.5')
    assert quoted.models == ("lora(x, 1)", "B") and not quoted.loras
    assert line("lora(v2) = A + B, 0.5").output == "lora(v2)"


def test_names_variables_and_pins():
    text = (
        "__L__ = style.safetensors\nmix = A + lora(__L__, 0.8) + lora(__M__)\npin lora(style.safetensors) = "
        + "0" * 64
    )
    recipe = parse(text)
    assert recipe.sources() == ("A",) and [term.name for term in recipe.loras()] == [
        "style.safetensors",
        "__M__",
    ]
    assert recipe.free() == ("__M__",) and recipe.bind({"M": "m"}).free() == ()
    assert dict(recipe.pins) == {recipe.loras()[0].pin: "0" * 64}
    odd = recipe.pinned({LoraTerm("a=b, c").pin: "1" * 64})
    assert parse(to_text(odd)) == odd and "pin lora(style.safetensors) = 0" in to_text(odd)


def test_random_lines_print_back_equal():
    draw = random.Random(5)
    names = [
        "x",
        "a b",
        'quo"te',
        "comma, name",
        "plus + plus",
        "hash#",
        "(",
        "a)b",
        "x (v2)",
        "[x]",
        "lora(y)",
        "back\\slash",
    ]
    weights = ["1", "MIDD", "IN04=0.5, OUT03=0", ", ".join(["0.1"] * 17), "R"]
    for _ in range(200):
        terms = [
            LoraTerm(draw.choice(names), draw.choice([1.0, 0.8, -2.0, 1e-3]), draw.choice(weights))
            for _ in range(draw.randint(1, 3))
        ]
        models = tuple(draw.choice(names) for _ in range(draw.randint(1, 2)))
        method, ratio = ("scale", "1") if len(models) == 1 else ("weighted_sum", "0.5")
        recipe = parse("m = A + B, 0.5")
        made = type(recipe)((Line("out", models, method, (("alpha", ratio),), loras=tuple(terms)),))
        assert parse(to_text(made)) == made, to_text(made)


def test_a_lora_that_cannot_be_written_is_refused():
    recipe = type(parse("m = A + B, 0.5"))(
        (Line("m", ("A",), "scale", (("alpha", "1"),), loras=(LoraTerm("x\ny"),)),)
    )
    with pytest.raises(MergeError, match="cannot be written"):
        check_portable(recipe)


@pytest.mark.parametrize(
    ("text", "words", "column"),
    [
        ("m = A + lora(x, 0.8", "no closing", 9),
        ("m = A + lora()", "no name", 14),
        ("m = A + lora(x, 0.8, [1,0", "no closing ]", 22),
        ("m = A + lora(x, 0.8) 0.5", "text after", 22),
        ("m = A + lora(x, 0.8, 0.9)", "given twice", 22),
        ("m = A + lora(x, IN04=0.5)", "has no 'IN04'", 17),
        ("m = A + lora(x, strength=big)", "must be a number", 26),
        ("m = A + lora(x, weights=)", "is empty", 25),
        ("m = A + lora(__O1__)", "result of a line", 14),
        ("m = lora(x, 1)", "added to a model", 5),
        ("m = A + lora(x, 1), 0.5", "has no alpha", 21),
        ("m = A + lora(x, 1), beta=0.5", "has no beta", 21),
        ("m = A + B + lora(x, 1)", "needs alpha", 1),
    ],
)
def test_errors_show_the_place(text, words, column):
    with pytest.raises(RecipeError, match=words) as error:
        parse(text)
    assert error.value.line == 1 and error.value.column == column
