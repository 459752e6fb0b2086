"""A finished sweep on its node: cells in the shape of the U under their heat, and one enlarged."""

from typing import Any

import pytest
from blockwork.tests.support.deck import Deck
from refhost.canvas import Canvas
from refhost.frontend_page import READY

pytestmark = pytest.mark.each_once

COLOURS = (0x202020, 0x808080, 0x202020, 0x404040)  # the unmodified, IN04, M00, OUT03
VIEW = "app.graph.getNodeById(id)?.widgets?.find((w) => w.type === 'BLOCKWORK_SWEEP')?.element"


def _grid(canvas: Canvas) -> str:
    """A queued sweep of three blocks made of plain pictures; the node's id."""
    grid = canvas.add("BlockworkSweepGrid", (700, 40))
    joined = ""
    for number, colour in enumerate(COLOURS):
        image = canvas.add("EmptyImage", (20, 40 + 170 * number))
        for name, value in {"width": 64, "height": 32, "color": colour}.items():
            canvas.set_value(image, name, value)
        if not joined:
            joined = image
            continue
        batch = canvas.add("ImageBatch", (320, 40 + 170 * number))
        canvas.connect(joined, 0, batch, "image1")
        canvas.connect(image, 0, batch, "image2")
        joined = batch
    canvas.connect(joined, 0, grid, "images")
    canvas.set_value(grid, "blocks", "IN04, M00, OUT03")
    canvas.set_value(grid, "seeds", "1")
    canvas.connect(grid, 0, canvas.add("PreviewImage", (1200, 40)), "images")
    return grid


def _shown(canvas: Canvas, grid: str, what: str) -> Any:
    return canvas.page.evaluate(f"(id) => {{ const view = {VIEW}; return {what}; }}", grid)


def test_cells_can_be_looked_into(canvas: Canvas, pictures):
    grid = _grid(canvas)
    before = canvas.save()
    assert canvas.queue()["status"]["status_str"] == "success"
    page = canvas.page
    page.wait_for_function(f"(id) => {VIEW}?.checkVisibility()", arg=grid)
    page.wait_for_function(
        f"(id) => [...{VIEW}.querySelectorAll('img')].every((i) => i.naturalWidth === 64)", arg=grid
    )
    assert _shown(canvas, grid, "[...view.querySelectorAll('.bw-cell-moved')].map((e) => e.textContent)") == [
        "", "96", "0", "32",
    ]  # fmt: skip
    heats = _shown(
        canvas, grid, "[...view.querySelectorAll('.bw-cell')].map((e) => e.style.getPropertyValue('--heat'))"
    )
    assert [float(heat) for heat in heats] == pytest.approx([0, 1, 0, 1 / 3])
    boxes = _shown(
        canvas, grid, "[...view.querySelectorAll('.bw-cell')].map((e) => e.getBoundingClientRect().toJSON())"
    )
    _, left, middle, right = boxes
    assert left["right"] <= middle["left"] + 1 <= right["left"] + 1 and middle["top"] > left["top"]
    assert all(box["width"] > 60 and box["height"] > 25 for box in boxes)
    fit = "[...view.querySelectorAll('.bw-cell img')].map((i) => [getComputedStyle(i).objectFit, i.offsetHeight > 20, i.offsetLeft >= i.previousSibling.offsetLeft + i.previousSibling.offsetWidth])"
    assert all(found == ["contain", True, True] for found in _shown(canvas, grid, fit)), (
        "whole images beside their labels"
    )
    deck = Deck(canvas, "DeckTestWeights", at=(20, 900))
    tints = {
        key: deck.bar(key).evaluate("(e) => e.style.getPropertyValue('--measured')")
        for key in ("IN04", "OUT03", "M00")
    }
    assert tints == {"IN04": "1", "OUT03": "0.333", "M00": "0"}, "decks show the heat"
    assert "Sweep heat: 0.333" in (deck.bar("OUT03").get_attribute("title") or "")
    canvas.look_at(deck.node)
    deck.find(".bw-picker").click()
    deck.find(".bw-card").click()
    assert deck.values_painted()[4] == 1 and deck.values_painted()[16] == 0.333, "and offer it as weights"
    before = canvas.save()
    canvas.look_at(grid)
    canvas.shot(pictures / f"sweep-{canvas.face}.png")
    page.locator(".bw-sweep .bw-cell[data-label='IN04 = 0.75']").click()
    light = page.locator("dialog.bw-light")
    light.wait_for()
    assert light.locator("h2").inner_text() == "IN04 = 0.75"
    assert light.locator(".bw-light-moved").inner_text() == "moved by 96 (pixel RMS, 8-bit steps), 1 / 3"
    assert light.locator("figcaption").all_inner_texts() == ["unmodified", "IN04 = 0.75"]
    canvas.shot(pictures / f"lightbox-{canvas.face}.png")
    light.locator("button", has_text="Copy weights").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == "IN04=0.75"
    light.locator("button", has_text="Slide").click()
    knob = light.locator(".bw-slide-knob")
    knob.focus()
    page.keyboard.press("Home")
    assert light.locator(".bw-slide").evaluate("(e) => e.style.getPropertyValue('--cut')") == "0%"
    assert light.locator(".bw-slide img").count() == 2
    canvas.shot(pictures / f"slide-{canvas.face}.png")
    light.locator("button", has_text="Slide").click()
    light.locator("h2").click()
    light.focus()
    page.keyboard.press("ArrowRight")
    assert light.locator("h2").inner_text() == "M00 = 0.75"
    page.keyboard.press("Home")
    assert light.locator("h2").inner_text() == "unmodified"
    page.keyboard.press("Escape")
    light.wait_for(state="detached")
    page.locator(".bw-sweep button", has_text="Heat").click()
    assert _shown(canvas, grid, "view.classList.contains('bw-hot')") is False
    assert _values(canvas.save()) == _values(before), "pictures of a run are no part of the workflow"
    assert "blockwork_sweep" not in canvas.prompt()[grid]["inputs"]


def test_a_reload_brings_back_the_decks_and_the_sweep(canvas: Canvas):
    """The deck at once; the images with the next run, which comes from ComfyUI's cache."""
    page = canvas.page
    grid = _grid(canvas)
    deck = Deck(canvas, "DeckTestWeights", at=(20, 900))
    canvas.look_at(deck.node)
    deck.drag("IN04", 0.1, 0.7)
    text = deck.text
    assert canvas.queue()["status"]["status_str"] == "success"
    page.wait_for_function(f"(id) => {VIEW}", arg=grid)
    persist = "(on) => app.extensionManager.setting.set('Comfy.Workflow.Persist', on)"
    page.evaluate(persist, True)
    try:
        page.evaluate("(id) => { app.graph.getNodeById(id).pos = [40, 900]; }", deck.node)
        canvas.remember()
        page.wait_for_timeout(1200)  # the front-end keeps what has been still for half a second
        page.reload(wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=90_000)
        page.wait_for_function("(id) => app.graph.getNodeById(id)", arg=deck.node)
        again = Deck(canvas, node=deck.node, hidden=True)
        assert again.text == again.shown == text and again.values_painted()[4] > 0.5
        entry = canvas.queue()
        cached = [told["nodes"] for kind, told in entry["status"]["messages"] if kind == "execution_cached"]
        assert grid in cached[0], "nothing is sampled or measured again"
        page.wait_for_function(f"(id) => {VIEW}?.querySelectorAll('.bw-cell').length === 4", arg=grid)
    finally:
        page.evaluate(persist, False)


def _values(workflow: dict[str, Any]) -> dict[str, Any]:
    return {str(node["id"]): node.get("widgets_values") or [] for node in workflow["nodes"]}
