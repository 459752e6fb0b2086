"""The weights deck under a user's hands: bars, keys, presets, text."""

from pathlib import Path

import pytest
from blockwork.tests.support.deck import BLOCKS, XL_BLOCKS, Deck
from refhost.canvas import Canvas
from refhost.client import Client

pytestmark = pytest.mark.each_once

WEIGHTS = "BlockworkBlockWeights"
ZEROS = ", ".join(["0"] * 25)


@pytest.fixture
def deck(canvas: Canvas) -> Deck:
    """A deck with all weights at zero."""
    deck = Deck(canvas, WEIGHTS)
    deck.text = ZEROS
    canvas.remember()
    return deck


def test_every_block_stands_in_the_u(deck: Deck):
    boxes = {key: deck.bar(key).bounding_box() for key in BLOCKS}
    root = deck.root.bounding_box()
    assert root
    for key, box in boxes.items():
        assert box and box["width"] > 60 and box["height"] > 12, f"{key}: {box}"
        assert root["x"] < box["x"] and box["x"] + box["width"] < root["x"] + root["width"]
        assert root["y"] < box["y"] and box["y"] + box["height"] < root["y"] + root["height"]
    for n in range(12):
        left, right = boxes[f"IN{n:02}"], boxes[f"OUT{11 - n:02}"]
        assert left and right
        assert left["x"] + left["width"] < right["x"] and abs(left["y"] - right["y"]) < 1
    tops = [box["y"] for key, box in boxes.items() if box and key.startswith("IN")]
    middle, deepest = boxes["M00"], boxes["IN11"]
    assert middle and deepest
    assert tops == sorted(tops) and middle["y"] > deepest["y"]
    assert deck.root.evaluate("(e) => e.scrollHeight <= e.clientHeight && e.scrollWidth <= e.clientWidth")


def test_dragging_a_bar_changes_only_it(deck: Deck):
    before = deck.canvas.where(deck.node)
    deck.drag("IN04", 0.2, 0.7)
    values = deck.values()
    assert values[4] == pytest.approx(0.7, abs=0.02)
    assert sum(values) == values[4]
    assert deck.painted()[4] == str(values[4])
    assert deck.text == deck.shown == deck.sent
    assert deck.canvas.where(deck.node) == before, "the drag moved the node or the canvas"


def test_fine_and_coarse_drags(deck: Deck):
    deck.drag("OUT03", 0.1, 0.5)
    assert deck.values()[16] == pytest.approx(0.5, abs=0.02)
    deck.drag("OUT03", 0.5, 0.9, modifier="Shift")
    fine = deck.values()[16]
    assert 0.52 < fine < 0.56, "a fine drag moves a tenth as far"
    deck.drag("OUT03", 0.2, 0.68, modifier="Control")
    assert deck.values()[16] == pytest.approx(0.7)


def test_keys_move_reset_and_type(deck: Deck):
    deck.keys("M00", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "Alt+ArrowLeft")
    assert deck.values()[12] == pytest.approx(0.119)
    deck.keys("M00", "End")
    assert deck.values()[12] == 1
    deck.keys("M00", "ArrowRight")
    assert deck.values()[12] == 1.01, "the keys go beyond 1"
    deck.keys("M00", "Delete")
    assert deck.values()[12] == 0
    deck.keys("M00", "Enter")
    deck.page.keyboard.type("-1.25")
    deck.page.keyboard.press("Enter")
    assert deck.values()[12] == -1.25
    deck.keys("M00", "Enter")
    deck.page.keyboard.type("3")
    deck.page.keyboard.press("Escape")
    assert deck.values()[12] == -1.25


def test_double_click_types_any_ratio(deck: Deck):
    deck.bar("OUT11").dblclick()
    deck.page.keyboard.type("2.5")
    deck.page.keyboard.press("Tab")
    deck.canvas.settle()
    assert deck.values()[24] == 2.5
    assert deck.painted()[24] == "2.5"
    deck.drag("IN00", 0.9, 1.0)
    assert deck.values()[0] == pytest.approx(3, abs=0.05), "the bars' scale grew to 0..3"


def test_wheel_turns_a_focused_bar_and_else_zooms(deck: Deck):
    box = deck.bar("IN05").bounding_box()
    assert box
    deck.page.mouse.move(box["x"] + 20, box["y"] + 5)
    deck.page.mouse.wheel(0, -120)
    deck.canvas.settle()
    deck.page.wait_for_timeout(150)
    assert deck.text == ZEROS
    assert deck.canvas.zoom() > 1.01, "without focus the canvas zooms"
    deck.canvas.zoom(1)
    deck.bar("IN05").focus()
    box = deck.bar("IN05").bounding_box()
    assert box
    deck.page.mouse.move(box["x"] + 20, box["y"] + 5)
    for _ in range(3):
        deck.page.mouse.wheel(0, -120)
    deck.canvas.settle(8)
    assert deck.values()[5] == pytest.approx(0.03)
    assert deck.canvas.zoom() == 1


def test_undo_of_drag_keys_and_tools(deck: Deck):
    """Ctrl+Z right after the gesture, with the bar still focused, and again."""
    deck.drag("IN02", 0.1, 0.4)
    dragged = deck.text
    deck.page.wait_for_timeout(150)
    deck.keys("IN02", "ArrowRight")
    keyed = deck.text
    deck.page.wait_for_timeout(150)
    deck.press("Mirror")
    deck.bar("IN03").focus()
    assert len({ZEROS, dragged, keyed, deck.text}) == 4
    for expected in (keyed, dragged, ZEROS):
        deck.canvas.undo()
        assert deck.after(expected) == expected
    focused = "document.activeElement.dataset.key"
    deck.page.wait_for_function(f"() => {focused} === 'IN03'")
    deck.canvas.undo("Control+y")
    assert deck.after(dragged) == dragged
    deck.page.wait_for_timeout(350)
    deck.press("Undo")
    assert deck.after(ZEROS) == ZEROS


def test_solo_and_back(deck: Deck):
    deck.text = "GRAD_V"
    deck.keys("IN03", "s")
    assert deck.text == "IN03=0.75" and deck.values_painted() == [0.75 if n == 3 else 0 for n in range(25)]
    deck.keys("IN04", "s")
    assert [n for n, value in enumerate(deck.values_painted()) if value] == [4]
    deck.keys("IN04", "s")
    assert deck.text == "GRAD_V"


def test_mirror_invert_reset(deck: Deck):
    deck.text = "SMOOTHSTEP"
    deck.press("Mirror")
    assert deck.find(".bw-preset-name").inner_text() == "REVERSE-SMOOTHSTEP"
    deck.press("Invert")
    assert deck.find(".bw-preset-name").inner_text() == "SMOOTHSTEP"
    deck.press("Reset")
    assert deck.values() == [0] * 25


def test_presets_are_found_and_applied(deck: Deck):
    deck.find(".bw-picker").click()
    cards = deck.root.query_selector_all(".bw-card")
    assert len(cards) == 38
    assert all(card.query_selector("svg polyline") for card in cards)
    deck.page.keyboard.type("cosine")
    names = [card.inner_text().strip() for card in deck.root.query_selector_all(".bw-card")]
    assert names == ["COSINE", "REVERSE_COSINE"]
    deck.page.keyboard.press("ArrowDown")
    deck.page.keyboard.press("ArrowRight")
    deck.page.keyboard.press("Enter")
    deck.canvas.settle()
    assert deck.find(".bw-preset-name").inner_text() == "REVERSE_COSINE"
    assert deck.values()[24] == 1 and deck.values()[0] == 0
    assert deck.root.query_selector(".bw-sheet[hidden]")


def test_blend_of_two_presets(deck: Deck):
    deck.find(".bw-picker").click()
    deck.press("Blend")
    for name in ("ALL_A", "ALL_B"):
        search = deck.find(".bw-search")
        search.fill(name)
        if name == "ALL_A":  # the deck's zeros are ALL_A already: choose it for the first place all the same
            deck.find(".bw-chip").click()
        deck.find(".bw-card").click()
    assert deck.values() == [0.5] * 25
    deck.find(".bw-slider").focus()
    deck.page.keyboard.press("End")
    deck.canvas.settle()
    assert deck.values() == [1] * 25
    deck.page.keyboard.press("Escape")


def test_own_presets_are_one_store(deck: Deck):
    deck.drag("IN01", 0.1, 0.35)
    values, kept = deck.values(), deck.text
    deck.find(".bw-picker").click()
    deck.find(".bw-keep-name").fill("IN05")
    deck.page.keyboard.press("Enter")
    deck.wait("root.querySelector('.bw-sheet .bw-error').textContent.includes('name of a block')")
    deck.find(".bw-keep-name").fill("My curve")
    deck.find(".bw-keep-about").fill("softer faces")
    deck.page.keyboard.press("Enter")
    deck.wait("root.querySelector('.bw-remove')")
    deck.page.keyboard.press("Escape")
    assert deck.find(".bw-preset-name").inner_text() == "My curve"
    deck.text = "My curve"
    assert deck.values_painted() == values
    deck.canvas.connect(deck.node, 0, shown := deck.canvas.add("DeckTestShow", (700, 60)), "text")
    ran = deck.canvas.queue()
    assert Client(deck.canvas.url).texts(ran) == {shown: [kept]}, "the node reads the same store"
    deck.find(".bw-picker").click()
    deck.page.keyboard.type("faces")
    assert deck.find(".bw-about").inner_text() == "softer faces"
    deck.find(".bw-remove").click()
    deck.wait("!root.querySelector('.bw-remove')")
    deck.page.keyboard.press("Escape")
    assert "Unknown preset" in deck.find(".bw-footer .bw-error").inner_text()
    deck.canvas.forgive("/api/blockwork/presets")  # the refused name was logged as a 400


def test_presets_are_imported_and_exported(deck: Deck, tmp_path: Path):
    file = tmp_path / "friends.tsv"
    file.write_text(f"# from a friend\nFRIEND\t{','.join(['0.25'] * 25)}\n", encoding="utf-8")
    deck.find(".bw-picker").click()
    deck.find(".bw-sheet input[type=file]").set_input_files(file)
    deck.wait("root.querySelector('.bw-remove')")
    with deck.page.expect_download() as saved:
        deck.press("Export")
    assert Path(saved.value.path()).read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    deck.find(".bw-remove").click()
    deck.wait("!root.querySelector('.bw-remove')")
    deck.page.keyboard.press("Escape")


def test_copy_and_paste(deck: Deck):
    deck.text = "GRAD_A"
    deck.press("Copy")
    assert deck.page.evaluate("() => navigator.clipboard.readText()") == "GRAD_A"
    assert deck.find(".bw-said").inner_text() == "Copied"
    deck.page.evaluate("(text) => navigator.clipboard.writeText(text)", "0.5, " + ZEROS)
    deck.press("Paste")
    deck.page.wait_for_timeout(50)
    assert deck.text == "0.5, " + ZEROS
    assert deck.find('.bw-bar[data-key="BASE"]').get_attribute("aria-disabled") is None


def test_copy_and_paste_over_plain_http(deck: Deck):
    """A page over plain HTTP has no clipboard object."""
    deck.page.evaluate(
        "() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })"
    )
    try:
        deck.text = "GRAD_A"
        deck.press("Copy")
        assert deck.find(".bw-said").inner_text() == "Copied"
        deck.text = ZEROS
        deck.press("Paste")
        assert "Ctrl+V" in deck.find(".bw-said").inner_text()
        deck.page.keyboard.press("Control+v")
        deck.page.keyboard.press("Enter")
        deck.canvas.settle()
        assert deck.text == "GRAD_A"
        deck.text = "GRAD_V"
        deck.keys("IN00", "Control+c")
        deck.text = ZEROS
        deck.keys("IN05", "Control+v")
        assert deck.text == "GRAD_V", "the keys work on a focused bar"
        assert len(deck.canvas.decks()) == 1, "the node itself was not pasted"
    finally:
        deck.page.evaluate("() => delete navigator.clipboard")


def test_typing_the_text_itself(deck: Deck):
    field = deck.find(".bw-text")
    field.fill("GRAD_V, IN00=0.25")
    field.press("Enter")
    deck.canvas.settle()
    assert deck.text == deck.sent == "GRAD_V, IN00=0.25"
    assert deck.painted()[:2] == ["0.25", "0.917"]
    field.fill("1, 2, 3")
    field.press("Enter")
    deck.canvas.settle()
    assert "3 numbers are given" in deck.find(".bw-error").inner_text()
    field.fill(ZEROS)
    field.press("Enter")
    deck.canvas.settle()
    assert deck.find(".bw-error").inner_text() == ""


def test_base_goes_into_the_list_and_out(deck: Deck):
    add = deck.find(".bw-absent .bw-add")
    assert add.is_visible() and add.inner_text() == "+ add BASE"
    add.click()
    deck.drag("BASE", 0.1, 0.5)
    assert len(deck.values()) == 26 and deck.values()[0] == pytest.approx(0.5, abs=0.02)
    deck.press("BASE")
    assert deck.text == ZEROS


def test_sdxl_layout(deck: Deck, pictures):
    deck.text = "GRAD_V"
    deck.press("SDXL")
    assert len(deck.values()) == 19 and deck.values()[9] == 0
    assert deck.canvas.value(deck.node, "layout") == "sdxl", "the node's own layout follows"
    assert [
        bar.get_attribute("data-key") for bar in deck.root.query_selector_all(".bw-u .bw-bar")
    ] == XL_BLOCKS
    assert deck.find(".bw-preset-name").inner_text() == "GRAD_V"
    deck.drag("OUT08", 0.2, 0.5)
    assert deck.values()[18] == pytest.approx(0.5, abs=0.02)
    deck.press("SD1")
    assert len(deck.values()) == 25


def test_two_decks_are_independent(deck: Deck):
    other = Deck(deck.canvas, "DeckTestWeights", at=(560, 60))
    deck.drag("IN00", 0.1, 0.6)
    other.drag("OUT11", 0.1, 0.3)
    assert deck.values()[24] == 0 and deck.values()[0] == pytest.approx(0.6, abs=0.02)
    assert other.values()[0] == 0 and other.values()[24] == pytest.approx(0.3, abs=0.02)
