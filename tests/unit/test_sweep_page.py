"""A sweep as one HTML page: what it holds, in which order, and that it needs nothing else."""

import base64
import io
import json
import re

import numpy as np
import pytest
from blockwork.blocks.names import SD1, SDXL
from blockwork.study.image import measure
from blockwork.study.page import sweep_page
from blockwork.study.sweep import Sweep
from PIL import Image


def made(layout, blocks, ratios=(0.5, 0.75), seeds=(1, 2), embedded=False, title="a <b> title"):
    """A sweep whose images of cell n have the value 10 n + image, and its page."""
    sweep = Sweep(layout, blocks, ratios, seeds)
    pictures = [
        np.stack([np.full((16, 16, 3), 10 * number + image, np.uint8) for image in range(len(seeds))])
        for number in range(len(sweep.cells))
    ]
    vectors = [np.eye(4, dtype=np.float32)[[number % 4] * len(seeds)] for number in range(len(sweep.cells))]
    return sweep, sweep_page(sweep, pictures, measure(sweep, pictures, vectors if embedded else None), title)


def levels(page):
    """The value of each image in the order of the page."""
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [round(np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).mean()) for one in data]


@pytest.mark.parametrize("layout", [SD1, SDXL], ids=["sd1", "sdxl"])
def test_every_image_of_every_cell_stands_once_in_the_order_of_the_cells(layout):
    sweep, page = made(layout, ("IN04", "M00", "OUT05"))
    assert levels(page) == [10 * number + image for number in range(len(sweep.cells)) for image in range(2)]
    labels = re.findall(r'<div class="cell"><p><b>([^<]+)</b>', page)
    assert labels == [cell.label for cell in sweep.cells]
    facts = json.loads(re.search(r"const CELLS = (.+);", page)[1])
    assert [fact["label"] for fact in facts] == labels and {len(fact["text"]) for fact in facts} == {2}


def test_the_page_loads_nothing_and_no_text_leaves_its_place():
    _, page = made(SD1, ("IN04",), embedded=True)
    assert "http" not in page and "src=" in page
    assert "<b> title" not in page and "a &lt;b&gt; title" in page
    assert page.count("<script>") == page.count("</script>") == 1


def test_the_table_lists_the_farthest_first_in_both_measures():
    _, page = made(SD1, ("IN04", "OUT05"), ratios=(0.5,), embedded=True)
    rows = re.findall(r"<tr><td>([^<]+)</td><td>([^<]+)</td><td>([^<]+)</td></tr>", page)
    assert rows == [("OUT05 = 0.5", "20.00", "1.0000"), ("IN04 = 0.5", "10.00", "1.0000")]
    assert re.findall(r'<i style="width: ([\d.]+)%">', page) == ["0.0", "50.0", "100.0"]
