"""The labelled sheet and the blind rating sheet."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from blockwork.study import rating, sheet
from PIL import Image


def colours(count, side=16):
    """Images of one red each, from dark to light."""
    reds = torch.linspace(0.1, 0.9, count).view(-1, 1, 1, 1) * torch.tensor([1.0, 0.0, 0.0])
    return reds.expand(count, side, side, 3)


def cell(drawn, image):
    """Where a sheet shows an image of one colour: rows and columns of its pixels."""
    return torch.nonzero((drawn - image[0, 0]).abs().amax(-1) < 0.01)


def test_every_image_is_in_its_cell():
    drawn = sheet.draw_sheet(colours(6), ["a", "b", "c"], ["x", "y"], "Title")[0]
    assert drawn.shape[-1] == 3
    cells = [cell(drawn, image) for image in colours(6)]
    assert [len(pixels) for pixels in cells] == [160 * 160] * 6
    places = [pixels[0].tolist() for pixels in cells]
    assert places == sorted(places)  # row by row
    assert len({row for row, _ in places}) == 2 and len({column for _, column in places}) == 3


@pytest.mark.parametrize(
    "columns, rows, shape", [([], [], (1, 6)), (["a", "b"], [], (3, 2)), ([], ["x", "y"], (2, 3))]
)
def test_missing_labels_are_worked_out(columns, rows, shape):
    drawn = sheet.draw_sheet(colours(6), columns, rows)[0]
    left = {cell(drawn, image)[0, 1].item() for image in colours(6)}
    assert len(left) == shape[1]


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 columns and 1 rows, and 4 images"):
        sheet.draw_sheet(colours(4), ["a", "b", "c"], ["x"])


def test_labels_are_lines():
    assert sheet.labels_of("a\n\nb\n\n") == ["a", "", "b"]
    assert sheet.labels_of(" \n") == []


def key_of(page):
    return json.loads(re.search(r"const KEY = (.+);", page)[1])


def shown(page):
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).mean() / 255 for one in data]


def test_a_rating_page_is_blind_and_its_key_is_right():
    count = 8
    first, second = colours(count) * 0.4, colours(count) * 0.4 + 0.5  # the first are darker
    prompts = [f"caption {number} <b>" for number in range(count)]
    page = rating.rating_page(first, second, prompts, ("ours", "theirs"), seed=3)
    key = key_of(page)
    assert len(set(key["flipped"])) == 2, "both sides occur"
    assert key["prompts"] != prompts and sorted(key["prompts"]) == prompts
    visible = re.sub(r'<script>.*</script>|src="[^"]+"', "", page, flags=re.DOTALL)
    assert "ours" not in visible and "theirs" not in visible
    assert "<b>" not in visible and "&lt;b&gt;" in visible
    images = shown(page)
    for number, flipped in enumerate(key["flipped"]):
        left, right = images[2 * number : 2 * number + 2]
        assert (left > right) == flipped  # flipped: the second, lighter image is on the left
        index = prompts.index(key["prompts"][number])
        assert min(left, right) == pytest.approx(first[index].mean().item(), abs=0.01)
    assert page == rating.rating_page(first, second, prompts, ("ours", "theirs"), seed=3)
    assert "http" not in visible, "the page loads nothing"


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 and 2 images"):
        rating.rating_page(colours(3), colours(2), [])
    with pytest.raises(ValueError, match="2 prompts are given for 3 pairs"):
        rating.rating_page(colours(3), colours(3), ["a", "b"])
    with pytest.raises(ValueError, match="two different names"):
        rating.rating_page(colours(1), colours(1), [], ("A", "A"))
    assert key_of(rating.rating_page(colours(2), colours(2), ["one"]))["prompts"] == ["one", "one"]
