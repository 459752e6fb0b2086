"""What must not change a weight, and what the deck must not say: presses, swipes, stale and linked texts."""

from typing import Any

import pytest
from blockwork.tests.support.deck import Deck
from refhost.canvas import Canvas
from refhost.client import Client

WEIGHTS = "BlockworkBlockWeights"
ZEROS = ", ".join(["0"] * 25)


@pytest.fixture
def deck(canvas: Canvas) -> Deck:
    deck = Deck(canvas, WEIGHTS)
    deck.text = ZEROS
    canvas.remember()
    return deck


def _centre(deck: Deck, key: str) -> tuple[float, float]:
    box = deck.bar(key).bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def _banner(deck: Deck) -> str:
    return deck.root.query_selector(".bw-banner").inner_text()  # pyright: ignore[reportOptionalMemberAccess]


def test_a_press_changes_nothing(deck: Deck):
    x, y = _centre(deck, "IN04")
    deck.page.mouse.click(x, y)
    deck.page.mouse.move(x, y)
    deck.page.mouse.down()
    deck.page.mouse.move(x + 2, y + 2)
    deck.page.mouse.up()
    assert deck.text == ZEROS
    assert deck.page.evaluate("() => document.activeElement.dataset.key") == "IN04", (
        "the press gives the focus"
    )
    deck.page.mouse.dblclick(x, y)
    deck.page.keyboard.press("Escape")
    deck.canvas.settle()
    assert deck.text == ZEROS


def test_escape_brings_back_the_weight(deck: Deck):
    x, y = _centre(deck, "IN04")
    deck.page.mouse.move(x, y)
    deck.page.mouse.down()
    deck.page.mouse.move(x + 20, y, steps=3)
    assert deck.values()[4] > 0.5
    deck.page.keyboard.press("Escape")
    assert deck.text == ZEROS
    deck.page.mouse.move(x + 40, y)
    deck.page.mouse.up()
    deck.canvas.settle()
    assert deck.text == ZEROS


def test_a_swipe_scrolls_and_a_sideways_drag_changes(deck: Deck):
    swipe = """(bar, [dx, dy]) => { const box = bar.getBoundingClientRect(); const at = (n) => ({ bubbles: true, pointerId: 7,
        pointerType: 'touch', isPrimary: true, button: 0, buttons: 1, clientX: box.left + box.width / 2 + dx * n / 5, clientY: box.top + 10 + dy * n / 5 });
      bar.setPointerCapture = () => {}; bar.dispatchEvent(new PointerEvent('pointerdown', at(0)));
      for (let n = 1; n <= 5; n++) bar.dispatchEvent(new PointerEvent('pointermove', at(n)));
      bar.dispatchEvent(new PointerEvent('pointerup', { ...at(5), buttons: 0 })); delete bar.setPointerCapture; }"""
    deck.bar("IN04").evaluate(swipe, [10, 60])
    assert deck.text == ZEROS
    assert deck.bar("IN04").evaluate("(e) => getComputedStyle(e).touchAction") == "pan-y pinch-zoom"
    deck.bar("IN04").evaluate(swipe, [30, 4])
    assert deck.values()[4] > 0.5


def test_painting_levels_and_the_brush(deck: Deck):
    first, last = _centre(deck, "IN02"), _centre(deck, "IN06")
    deck.press("Paint")
    deck.page.mouse.move(*first)
    deck.page.mouse.down()
    deck.page.mouse.move(first[0], last[1], steps=3)
    deck.page.mouse.up()
    assert [n for n, value in enumerate(deck.values()) if value > 0.3] == [2, 3, 4, 5, 6]
    deck.text = ZEROS
    deck.press("Level")
    deck.drag("IN04", 0.1, 0.5)
    assert [n for n, value in enumerate(deck.values()) if value] == [3, 4, 5, 19, 20, 21]
    deck.text = ZEROS
    deck.press("Brush")
    deck.drag("IN06", 0.1, 0.8)
    values = deck.values()
    assert values[6] == pytest.approx(0.8, abs=0.02) and values[6] > values[5] == values[7] > values[4] > 0
    deck.press("One")


def test_mute_keeps_the_number(deck: Deck):
    deck.drag("IN04", 0.1, 0.6)
    before = deck.values()[4]
    deck.keys("IN04", "m")
    assert deck.values()[4] == 0 and deck.bar("IN04").get_attribute("data-value") == f"muted {before:g}"
    saved = deck.canvas.save()
    deck.canvas.clear()
    deck.canvas.load(saved)
    again = Deck(deck.canvas, node=deck.node)
    again.keys("IN04", "m")
    assert again.values()[4] == before


def test_groups_scale_and_dice(deck: Deck):
    deck.press("Shape")
    group, how = deck.root.query_selector_all(".bw-sheet select")
    group.select_option("OUT")
    how.select_option("set")
    deck.press("Apply")
    assert deck.values() == [0] * 13 + [0.5] * 12
    how.select_option("multiply")
    deck.press("Apply")
    assert deck.values()[20] == 0.25
    bars = [deck.bar(key).bounding_box() for key in ("IN00", "M00", "OUT00")]
    sheet = deck.find(".bw-sheet").bounding_box()
    assert sheet and all(box and box["y"] >= sheet["y"] + sheet["height"] - 1 for box in bars), (
        "the bars stay in sight"
    )
    deck.press("Dice")
    tries = deck.root.query_selector_all(".bw-try")
    tries[2].click()
    first = deck.values()
    assert len(tries) == 8 and len(set(first)) > 10 and min(first) >= 0 and max(first) <= 1
    deck.page.keyboard.press("Escape")
    deck.text = "ALL_B"
    deck.press("Shape")
    times, plus = deck.root.query_selector_all(".bw-sheet .bw-small")[1:3]
    times.fill("0.5")
    plus.fill("0.1")
    plus.press("Tab")
    assert deck.values() == [0.6] * 25
    deck.page.keyboard.press("Escape")


def test_blending_keeps_the_bars_in_sight(deck: Deck):
    deck.find(".bw-picker").click()
    deck.press("Blend")
    sheet = deck.find(".bw-sheet").bounding_box()
    bars = [deck.bar(key).bounding_box() for key in ("IN00", "M00", "OUT11")]
    assert sheet and all(
        box and box["height"] > 5 and box["y"] >= sheet["y"] + sheet["height"] - 1 for box in bars
    )
    assert deck.root.evaluate("(e) => e.scrollHeight <= e.clientHeight + 1")
    deck.page.keyboard.press("Escape")


def test_the_deck_says_what_a_full_bar_is(canvas: Canvas):
    said = {}
    for number, node_type in enumerate(
        ("BlockworkMergeModels", "BlockworkAddDifference", "BlockworkScaleBlocks")
    ):
        deck = Deck(canvas, node_type, at=(20 + 460 * number, 60))
        deck.text = "ALL_B"
        said[node_type] = (
            deck.find(".bw-means").inner_text().replace("\n", " "),
            deck.find(".bw-preset-name").inner_text(),
        )
    assert said == {
        "BlockworkMergeModels": ("0: model A 1: model B", "ALL_B"),
        "BlockworkAddDifference": ("0: model A 1: A + (B - C)", "all 1"),
        "BlockworkScaleBlocks": ("0: block removed 1: unchanged", "all 1"),
    }
    assert (
        deck.bar("OUT05")
        .get_attribute("title")
        .startswith(  # pyright: ignore[reportOptionalMemberAccess]
            "OUT05: 1/4 resolution, 1 attention layer, 11 % of the parameters, 40 tensors"
        )
    )


def test_block_weights_shows_what_it_puts_out(canvas: Canvas):
    deck = Deck(canvas, WEIGHTS)
    deck.text = "IN00=1, IN01=0.5"
    for name, value in {"mirror": True, "scale": 0.5, "offset": 0.25}.items():
        canvas.set_value(deck.node, name, value)
        canvas.page.evaluate(
            "([id, name]) => { const w = app.graph.getNodeById(id).widgets.find((w) => w.name === name); w.callback?.(w.value); }",
            [deck.node, name],
        )
    canvas.connect(deck.node, 0, shown := canvas.add("DeckTestShow", (700, 60)), "text")

    def put_out() -> list[float]:
        text = Client(canvas.url).texts(canvas.queue())[shown][0]
        return [float(number) for number in text.split(",")]

    assert deck.values_painted() == [0.25] * 23 + [0.5, 0.75] == put_out()
    assert "after blend, mirror" in deck.find(".bw-error").inner_text()
    deck.keys("IN05", "ArrowRight")
    assert [canvas.value(deck.node, name) for name in ("mirror", "scale", "offset")] == [False, 1, 0]
    assert (
        deck.values() == deck.values_painted() == put_out() == [0.25] * 5 + [0.26] + [0.25] * 17 + [0.5, 0.75]
    )
    assert deck.find(".bw-error").inner_text() == ""


def test_a_linked_deck_shows_the_source(canvas: Canvas):
    """Known before a run: another deck (after its own shaping), and core's text nodes."""
    source = Deck(canvas, WEIGHTS, at=(20, 60))
    deck = Deck(canvas, "DeckTestWeights", at=(560, 60))
    source.text = "GRAD_A"
    canvas.connect(source.node, 0, deck.node, "weights")
    assert deck.root.evaluate("(e) => e.inert") and _banner(deck) == "Set by link: Block Weights"
    assert deck.values_painted() == source.values_painted() and max(deck.values_painted()) == 1
    source.drag("IN00", 0.1, 0.7)
    assert deck.values_painted() == source.values_painted()
    text = canvas.add("PrimitiveString", (20, 700))
    canvas.set_value(text, "value", "IN03=0.25")
    canvas.connect(text, 0, deck.node, "weights")
    assert deck.values_painted() == [0.25 if n == 3 else 0 for n in range(25)]
    assert deck.text == ZEROS.replace(" ", ""), "its own text is kept for when the link goes"
    canvas.disconnect(deck.node, "weights")
    assert deck.values_painted() == [0] * 25 and _banner(deck) == ""


def test_a_linked_deck_shows_what_ran(canvas: Canvas):
    """Unknown before a run, it shows no numbers at all rather than old ones."""
    deck = Deck(canvas, "DeckTestWeights", at=(560, 60))
    deck.text = "GRAD_V"
    source = canvas.add("DeckTestText", (20, 60))
    canvas.set_value(source, "text", "IN04=0.5")
    canvas.connect(source, 0, deck.node, "weights")
    assert _banner(deck) == "Set by link: DeckTestText (shown after a run)"
    assert set(deck.painted()) == {""} and deck.shown == ""
    canvas.connect(deck.node, 0, canvas.add("DeckTestShow", (1100, 60)), "text")
    canvas.queue()
    deck.wait("root.querySelector('.bw-banner').textContent.includes('last run')")
    assert deck.values_painted() == [0.5 if n == 4 else 0 for n in range(25)]


def test_a_deck_of_columns(canvas: Canvas, pictures: Any):
    """A transformer's stacks side by side: 60 bars, readable, and changed like any other."""
    canvas.page.evaluate(
        """async () => { const { addLayout } = await import('/extensions/blockwork/deck/blocks.mjs');
             const stack = (letter, n) => ({ letter, title: letter, blocks: Array.from({ length: n }, (_, i) => letter + String(i).padStart(2, '0')) });
             window.__layouts = ['flux',
               addLayout({ name: 'long', stacks: [stack('B', 120)], apart: ['BASE'] })]; }"""
    )
    deck = Deck(canvas, "DeckTestWeights")
    for index, count in enumerate((57, 120)):
        canvas.page.evaluate(
            "([id, index]) => { const node = app.graph.getNodeById(id); node.properties['Blockwork layout'] = window.__layouts[index]; node.widgets.at(-1).value = '0.5'; }",
            [deck.node, index],
        )
        canvas.settle(10)
        bars = deck.root.query_selector_all(".bw-u .bw-bar")
        boxes = [box for bar in bars if (box := bar.bounding_box())]
        assert len(boxes) == count and min(box["width"] for box in boxes) > 55
        assert min(box["height"] for box in boxes) > 14
        apart = deck.find(".bw-apart").bounding_box()
        assert apart and all(box["y"] + box["height"] <= apart["y"] + 1 for box in boxes), "no bar is covered"
        canvas.look_at(deck.node)
        canvas.shot(pictures / f"columns-{count}-{canvas.face}.png")
    canvas.zoom(1)


def test_the_deck_follows_the_loader_s_file(canvas: Canvas):
    """Another file in the loader upstream, another shape; a made-up model has blocks as well."""
    loader = canvas.add("UNETLoader", (20, 60))
    deck = Deck(canvas, "BlockworkScaleBlocks", at=(500, 60))
    canvas.connect(loader, 0, deck.node, "model")
    for file, first, count in (("deck_flux", "D00", 57), ("deck_new", "QUUX00", 7), ("deck_flux", "D00", 57)):
        canvas.set_value(loader, "unet_name", f"{file}.safetensors")
        canvas.remember()
        deck.wait(f"root.querySelectorAll('.bw-u .bw-bar').length === {count}")
        assert deck.bar(first).get_attribute("aria-valuenow") == "1", "the text 1 fits every model"
    assert "2 % of the parameters" in (deck.bar("S37").get_attribute("title") or "")
    deck.keys("S37", "ArrowLeft")
    assert deck.sent == "1, S37=0.99"
