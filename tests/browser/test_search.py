"""A search in the browser: the best weights go to a deck by one click, and candidates are chosen by eye."""

import time

import pytest
from refhost.canvas import Canvas

pytestmark = pytest.mark.each_once

CLICK = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'use_best').callback()"
VALUE = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'weights').value"
RAN = "(id) => app.graph.getNodeById(id).onExecuted({ blockwork_text: ['IN00=0.25, M00=0.5'] })"


def test_the_best_weights_go_to_a_deck(canvas: Canvas):
    result = canvas.add("BlockworkSearchResult", (20, 60))
    deck = canvas.add("BlockworkBlockWeights", (500, 60))
    before = canvas.page.evaluate(VALUE, deck)
    canvas.page.evaluate(CLICK, result)
    assert canvas.page.evaluate(VALUE, deck) == before, "there is nothing to put there yet"
    canvas.page.evaluate(RAN, result)
    canvas.page.evaluate(CLICK, result)
    assert canvas.page.evaluate(VALUE, deck) == "IN00=0.25, M00=0.5"


VIEW = "app.graph.getNodeById(id)?.widgets?.find((w) => w.type === 'BLOCKWORK_CHOICE')?.element"
LABEL = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'use_best').label"


def _shown(canvas: Canvas, node: str, what: str):
    return canvas.page.evaluate(f"(id) => {{ const view = {VIEW}; return {what}; }}", node)


def _numbers(canvas: Canvas, node: str) -> list[int]:
    return _shown(canvas, node, "[...view.querySelectorAll('.bw-cell')].map((e) => Number(e.dataset.number))")


def test_candidates_are_ranked_by_clicks_and_the_next_ones_follow(canvas: Canvas, pictures):
    pytest.importorskip("optuna")
    page = canvas.page
    space = canvas.add("BlockworkSearchSpace", (20, 40))
    ask = canvas.add("BlockworkSearchAsk", (20, 380))
    draw = canvas.add("DeckTestDraw", (460, 40))
    choose = canvas.add("BlockworkSearchChoose", (460, 240))
    for name, value in {"study": f"by eye {time.time_ns()}", "at_once": 3}.items():
        canvas.set_value(ask, name, value)
    canvas.connect(space, 0, ask, "space")
    canvas.connect(ask, 0, draw, "text")
    canvas.connect(ask, 1, choose, "trial")
    canvas.connect(draw, 0, choose, "images")
    assert canvas.queue()["status"]["status_str"] == "success"
    page.wait_for_function(f"(id) => {VIEW}?.checkVisibility()", arg=choose)
    page.wait_for_function(
        f"(id) => [...{VIEW}.querySelectorAll('img')].every((i) => i.naturalWidth === 32)", arg=choose
    )
    assert _numbers(canvas, choose) == [0, 1, 2] and not _shown(
        canvas, choose, "view.querySelector('.bw-best')"
    )
    canvas.look_at(choose)
    cell = page.locator(".bw-choice .bw-cell")
    cell.nth(2).locator(".bw-choice-prefer").click()
    cell.nth(0).locator(".bw-choice-prefer").click()
    cell.nth(1).locator(".bw-choice-reject").click()
    assert canvas.prompt()[choose]["inputs"]["ranking"] == "generation 1: prefer 2, 0; reject 1"
    assert (
        page.locator(".bw-choice-rank").all_inner_texts() == ["2", "1"]
        and page.locator(".bw-rejected").count() == 1
    )
    canvas.shot(pictures / f"choice-{canvas.face}.png")
    cell.nth(0).locator(".bw-choice-prefer").click()
    assert canvas.prompt()[choose]["inputs"]["ranking"] == "generation 1: prefer 2; reject 1", (
        "again takes it away"
    )
    assert canvas.queue()["status"]["status_str"] == "success"
    page.wait_for_function(f"(id) => {VIEW}.querySelectorAll('.bw-cell').length === 4", arg=choose)
    assert _numbers(canvas, choose) == [2, 3, 4, 5] and cell.nth(0).locator(".bw-choice-reject").count() == 0
    assert page.locator(".bw-choice-rank").count() == 0, "marks are of their generation"
    weights = page.evaluate("() => document.querySelectorAll('.bw-choice .bw-cell-name')[1].title")
    cell.nth(1).locator(".bw-choice-enlarge").click()
    light = page.locator("dialog.bw-light")
    light.wait_for()
    assert light.locator("figcaption").all_inner_texts() == ["Best so far", "Trial 3"]
    assert light.locator(".bw-light-moved").inner_text() == weights
    page.keyboard.press("Escape")
    light.wait_for(state="detached")
    deck = canvas.add("BlockworkBlockWeights", (20, 900))
    canvas.look_at(choose)
    cell.nth(1).locator(".bw-choice-useThese").click()
    assert page.evaluate(VALUE, deck) == weights and weights.count(",") == 24
    assert "blockwork_choice" not in canvas.prompt()[choose]["inputs"]


def test_the_button_has_its_words(canvas: Canvas):
    assert (
        canvas.page.evaluate(LABEL, canvas.add("BlockworkSearchResult", (20, 60)))
        == "Put the best weights on a deck"
    )
