"""Text in images: letters that the default font lacks come from a font of the system; bars fill their columns."""

import ast
from pathlib import Path

import blockwork
import numpy as np
import pytest
from blockwork.blocks import drawing
from blockwork.blocks.weights import parse
from PIL import Image, ImageDraw


def test_latin_text_keeps_the_default_font():
    assert drawing.font(15, "M00 = 0.75, Caf\u00e9").getname() == drawing.font(15).getname()


def test_japanese_text_is_not_boxes():
    if drawing._wide_font(15) is None:
        pytest.skip("this machine has no font with Japanese letters")
    font = drawing.font(15, "\u732b")
    masks = [bytes(font.getmask(letter)) for letter in "\u732b\u72ac\u9ce5"]
    assert len(set(masks)) == 3, "a missing letter would be the same box each time"


def test_bars_take_more_than_half_of_a_column():
    image = drawing.draw_weights(parse("1"))
    orange = np.array(drawing.HIGH) / 255
    row = np.abs(image - orange).sum(2) < 0.1
    assert row.sum(1).max() > 0.37 * image.shape[1], "two of the three columns have a bar in a row"


SOURCES = [
    path
    for package in (
        "blocks",
        "merge",
        "study",
        "injection",
        "deprojector",
        "cascade",
        "demo_models",
        "search",
        "nodes",
    )
    for path in (Path(blockwork.__file__).parent / package).rglob("*.py")
    if path.name != "drawing.py"
]


def test_every_text_in_an_image_is_drawn_with_a_font_that_has_its_letters():
    """Only ``blocks/drawing.py`` draws text, which chooses the font by the letters."""
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        if "ImageDraw" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("multiline_text", "load_default", "truetype"), path
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "text"
            ):
                assert len(node.args) < 2, f"{path}:{node.lineno} draws a text"


def test_wrapped_lines_fit_and_keep_every_letter():
    for text in ("a red cat in the garden", "\u8d64\u3044\u732b\u3068\u5ead\u306e\u82b1" * 4, "x" * 90, ""):
        lines = drawing.wrap(text, 14, 100)
        assert all(drawing.font(14, text).getlength(line) <= 100 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_dashes_are_drawn_along_the_whole_line_and_told_apart_without_colour():
    shares = []
    for _, dashes in drawing.SERIES[:3]:
        image = Image.new("L", (220, 9))
        drawing.curve(ImageDraw.Draw(image), [(10, 4), (60, 4), (61, 4), (210, 4)], 255, dashes)
        row = np.array(image)[4] > 0
        assert row[:10].sum() == 0 and row[10:20].any() and row[195:211].any()
        shares.append((row.sum(), (row[1:] & ~row[:-1]).sum()))
    assert shares[0][1] == 1 and len(set(shares)) == 3
