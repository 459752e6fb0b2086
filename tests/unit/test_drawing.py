"""Text in images: letters that the default font lacks come from a font of the system; bars fill their columns."""

import numpy as np
import pytest
from blockwork.blocks import drawing
from blockwork.blocks.weights import parse


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
