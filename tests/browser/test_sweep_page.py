"""The saved page of a sweep in Chromium: slide compare, keys, image size; nothing is loaded from outside."""

import numpy as np
import pytest
from blockwork.blocks.names import SD1
from blockwork.study.image import measure
from blockwork.study.page import sweep_page
from blockwork.study.sweep import Sweep


@pytest.fixture
def page(chrome, tmp_path):
    """The page of a sweep of three blocks with two seeds, opened from a file."""
    sweep = Sweep(SD1, ("IN04", "M00", "OUT04"), (0.5,), (1, 2))
    pictures = [np.full((2, 64, 64, 3), 20 * number, np.uint8) for number in range(4)]
    file = tmp_path / "sweep.html"
    file.write_text(sweep_page(sweep, pictures, measure(sweep, pictures), "a sweep"), encoding="utf-8")
    page = chrome.new_page()
    page.requested, page.errors = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(file.as_uri())
    yield page
    assert page.errors == [] and all(url.startswith(("file:", "data:")) for url in page.requested)
    page.close()


def test_an_image_is_compared_with_the_unmodified_one(page):
    assert page.locator("#blocks .cell img").count() == 8
    page.locator(".cell img").nth(5).click()  # M00, the second image
    name = page.locator("#name")
    assert name.inner_text() == "M00 = 0.5, image 2: pixel RMS, 8-bit steps 40.00"
    assert page.locator("#before").get_attribute("src") == page.locator(".cell img").nth(1).get_attribute(
        "src"
    )
    page.keyboard.press("ArrowRight")
    assert name.inner_text().startswith("OUT04 = 0.5, image 2")
    page.keyboard.press("ArrowRight")
    assert name.inner_text() == "unmodified, image 2"
    page.locator("#cut").fill("30")
    assert (
        page.locator("#after").evaluate("image => getComputedStyle(image).clipPath")
        == "inset(0px 0px 0px 30%)"
    )
    page.keyboard.press("Escape")
    assert not page.locator("#one").is_visible()


def test_the_size_of_the_images_can_be_set(page):
    page.locator("#size").fill("200")
    assert page.locator(".cell img").first.bounding_box()["width"] == 200
