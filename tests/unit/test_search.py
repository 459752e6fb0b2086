"""The texts of a search without ComfyUI: its grammar, names of studies, prompts and seeds, scores of images."""

import math
import sys

import pytest
import torch
from blockwork.blocks.weights import parse
from blockwork.search import cases, scores
from blockwork.search.errors import SearchError
from blockwork.search.names import checked_name
from blockwork.search.space import parse_space
from blockwork.search.storage import open_storage

EXAMPLE = "IN00-IN05 = 0..1; M00 = 0.5; OUT = one 0.2..0.8; BASE = 0, 0.5, 1"


def test_the_grammar_of_spaces():
    space = parse_space(EXAMPLE, "sd1")
    assert list(space.parameters) == [*(f"IN{i:02}" for i in range(6)), "OUT", "BASE"]
    assert space.blocks_of("OUT") == tuple(f"OUT{i:02}" for i in range(12)) and space.blocks_of("IN03") == (
        "IN03",
    )
    values = dict.fromkeys(space.parameters, 0.25) | {"BASE": 0.5, "IN01": 0.123456}
    weights = space.weights(values)
    assert (
        weights.of("IN01", -1) == 0.1235 and weights.of("M00", -1) == 0.5 and weights.of("OUT11", -1) == 0.25
    )
    assert weights.of("BASE", -1) == 0.5 and not weights.is_named("IN06")
    assert parse(weights.text(), "sd1") == weights

    assert set(parse_space("ALL = 0..1\nIN = 0.3", "sd1").parameters) == {
        "M00",
        *(f"OUT{i:02}" for i in range(12)),
    }
    steps = parse_space("IN00 = 0..1 by 0.25; IN01 = one 0, 1", "sdxl")
    assert steps.size == 10
    assert parse_space("D = one 0..1; S00-S07 = 1, off", "flux").size == math.inf
    below = parse_space("GRAD_V; IN00 = 0..1", "sd1").weights({"IN00": 0.125})
    assert below.values[1:] == parse("GRAD_V", "sd1").values[1:] and below.values[0] == 0.125


def test_a_curve_is_a_plateau_with_slopes():
    space = parse_space("IN00-IN10 = curve 0.1..0.9", "sd1")
    shape = {"level": 0.9, "centre": 0.5, "width": 0.2, "slope left": 8.0, "slope right": 0.0}
    weights = space.weights({f"IN00-IN10 {name}": value for name, value in shape.items()})
    assert [weights.of(f"IN{i:02}", -1) for i in (0, 3, 4, 5, 10)] == [0.1, 0.26, 0.9, 0.9, 0.9]
    flat = space.weights(
        {f"IN00-IN10 {name}": value for name, value in (shape | {"slope left": 0.0, "level": 0.4}).items()}
    )
    assert {flat.of(f"IN{i:02}", -1) for i in range(11)} == {0.4}


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no free weight"),
        ("IN00 = 0.5", "no free weight"),
        ("IN00 = 1..0", "from the lower to the higher"),
        ("IN00 = 0..nan", "not a number"),
        ("IN00 = 0..1 by 1e-300", "step must be at least 0.0001"),
        ("IN00 = -1e308..1e308", "from -1000000 to 1000000"),
        ("IN00 = 0, 1e308", "from -1000000 to 1000000"),
        ("IN00 = 0..0.00001", "at least 0.0001 long"),
        ("ALL = curve 0.5..0.50001", "at least 0.0001 long"),
        ("IN00 = ", "no weight after"),
        ("IN99 = 0..1", "Unknown block 'IN99'"),
        ("IN00 = 0..1 by 3", "step"),
        ("IN00 = 0, 0", "twice"),
        ("IN00 = curve 0.5", "needs a range"),
        ("NO_SUCH_PRESET; IN00 = 0..1", "NO_SUCH_PRESET"),
        ("IN00 = off, 1; " * 1000, "characters"),
    ],
)
def test_a_bad_space_says_what_is_expected(text, said):
    with pytest.raises(ValueError, match=said) as error:
        parse_space(text, "sd1")
    assert str(error.value).endswith(".") and len(str(error.value)) < 700


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "x/y",
        "x\\y",
        "a\0b",
        "x" * 300,
        "postgresql://h/d",
        "",
        ".",
        "..",
        "a..b",
        "NUL",
        "con.log",
        " x",
        "x ",
        "x.",
        "a\nb",
        "~x",
    ],
)
def test_hostile_names_of_studies_are_refused(name, tmp_path):
    with pytest.raises(SearchError, match="not a valid name"):
        open_storage(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_plain_names_are_names():
    for name in ("my search", "a", "sdxl-2.1_b", "\u691c\u7d22 1"):
        assert checked_name(name) == name


def test_scores():
    images = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    assert scores.pixel_distance(images, images) == 0
    assert scores.pixel_distance(images * 0, images[:1] * 0 + 0.5) == pytest.approx(0.5)
    with pytest.raises(SearchError, match="8 x 8 pixels and the reference 4 x 8"):
        scores.pixel_distance(images, images[:, :, :4])
    assert scores.cosine(torch.eye(2), torch.tensor([[3.0, 0.0]])) == pytest.approx(0.5)
    with pytest.raises(SearchError, match="not of one model"):
        scores.cosine(torch.eye(2), torch.eye(3))
    assert scores.weighted_sum([[1.0, 3.0], [4.0]], [1.0, -0.5]) == 0.0
    with pytest.raises(SearchError, match="not a valid answer"):
        scores.parse_wanted("style = oil", {"style": ("ink",)})


def test_prompts_and_seeds():
    found = cases.parse_cases("a\n\nb", "1, 3-4")
    assert found.pairs() == (["a"] * 3 + ["b"] * 3, [1, 3, 4] * 2)
    for prompts, seeds in (("", "1"), ("a", ""), ("a", "x"), ("a", "4-1"), ("a", "1-900")):
        with pytest.raises(SearchError):
            cases.parse_cases(prompts, seeds)
    with pytest.raises(SearchError, match="hold-out"):
        cases.check_apart(found, cases.parse_cases("b", "4"))


def test_without_optuna_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SearchError, match="pip install optuna"):
        open_storage(tmp_path, "a")
