"""What the deck must live through in a graph: files, clones, links, sizes, renderers, subgraphs, drops."""

import json
from pathlib import Path
from typing import Any

import pytest
from blockwork.tests.support.deck import BLOCKS, Deck
from refhost.canvas import Canvas
from refhost.client import Client

pytestmark = pytest.mark.each_once

WEIGHTS = "BlockworkBlockWeights"
CURVE = ", ".join(f"{n / 10 - 0.3:g}" for n in range(25))
PAIR = f"{CURVE} | 0.25, {', '.join(['0.5'] * 24)}"
SPEC = "IN04-IN08, M00=0.5, OUT03"


def _decks(canvas: Canvas) -> dict[str, str]:
    """One deck of each kind with a text of its own; node id -> text."""
    texts = {"DeckTestWeights": CURVE, "DeckTestPair": PAIR, "DeckTestSpec": "IN05, OUT04=0.75"}
    made = {}
    for number, (node_type, text) in enumerate(texts.items()):
        deck = Deck(canvas, node_type, at=(20 + 470 * number, 60))
        deck.text = text
        made[deck.node] = text
    return made


def _texts(canvas: Canvas) -> dict[str, str]:
    return {node["id"]: node["text"] for node in canvas.decks()}


def test_queue_sends_exactly_what_is_shown(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    shown = canvas.add("DeckTestShow", (600, 60))
    canvas.connect(deck.node, 0, shown, "text")
    deck.drag("IN07", 0.1, 0.637)
    deck.drag("OUT02", 0.1, 0.25)
    entry = canvas.queue()
    assert entry["prompt"][2][deck.node]["inputs"] == {"weights": deck.shown}
    assert Client(canvas.url).texts(entry) == {shown: [deck.shown]}


def test_save_and_reload_keep_every_deck(canvas: Canvas, tmp_path: Path):
    made = _decks(canvas)
    saved = json.loads(json.dumps(canvas.save()))
    values = {str(node["id"]): node["widgets_values"] for node in saved["nodes"]}
    assert values == {node: [text] for node, text in made.items()}
    named = {str(node["id"]): node.get("widgets_values_named") for node in saved["nodes"]}
    written = canvas.version.startswith("1.58")
    assert named == {node: {"weights": text} if written else None for node, text in made.items()}
    canvas.clear()
    canvas.load(saved)
    assert _texts(canvas) == made
    for node, text in made.items():
        deck = Deck(canvas, node=node)
        assert deck.shown == text == deck.sent


def test_clone_keeps_the_text_and_stands_alone(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    deck.text = CURVE
    clone = Deck(canvas, node=canvas.clone(deck.node, (560, 60)))
    assert clone.text == clone.shown == CURVE
    clone.drag("IN00", 0.2, 0.9)
    assert deck.text == CURVE != clone.text


def test_copy_between_workflows(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    deck.text = CURVE
    canvas.copy(deck.node)
    canvas.clear()
    canvas.paste()
    assert list(_texts(canvas).values()) == [CURVE]


def test_link_makes_the_deck_inert_and_reaches_the_prompt(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights", at=(560, 60))
    source = canvas.add("DeckTestText", (40, 60))
    canvas.connect(source, 0, deck.node, "weights")
    assert deck.sent == [source, 0]
    assert deck.root.evaluate("(e) => e.inert")
    saved = canvas.save()
    canvas.clear()
    canvas.load(saved)
    again = Deck(canvas, node=deck.node, hidden=True)
    assert again.root.evaluate("(e) => e.inert"), "inert after a reload too"
    canvas.disconnect(deck.node, "weights")
    again = Deck(canvas, node=deck.node)
    assert not again.root.evaluate("(e) => e.inert")
    again.drag("IN03", 0.1, 0.5)
    assert again.values()[3] == pytest.approx(0.5, abs=0.02) and again.sent == again.text


def test_deck_follows_the_node_s_size(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    small = deck.root.bounding_box()
    canvas.resize(deck.node, (620, 700))
    large = deck.root.bounding_box()
    assert small and large
    assert large["width"] > small["width"] + 150 and large["height"] > small["height"] + 150
    canvas.resize(deck.node, (200, 60))
    box = deck.root.bounding_box()
    assert box and box["height"] >= 395, "never smaller than its bars need"
    assert deck.root.evaluate("(e) => e.scrollHeight <= e.clientHeight + 1")


def test_renderers_can_be_switched_while_open(canvas: Canvas):
    made = _decks(canvas)
    first = canvas.nodes2
    try:
        for nodes2 in (not first, first):
            canvas.renderer(nodes2)
            canvas.page.wait_for_timeout(300)
            assert _texts(canvas) == made
            for node, text in made.items():
                assert Deck(canvas, node=node).root.is_visible()
                assert Deck(canvas, node=node).shown == text
            weights = Deck(canvas, node=next(iter(made)))
            weights.drag("M00", 0.1, 0.4)
            made[weights.node] = weights.text
            assert weights.text != CURVE
    finally:
        canvas.renderer(first)


def test_deck_inside_a_subgraph(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    shown = canvas.add("DeckTestShow", (560, 60))
    canvas.connect(deck.node, 0, shown, "text")
    deck.text = CURVE
    canvas.to_subgraph([deck.node])
    saved = canvas.save()
    prompt = canvas.prompt()
    assert [node["inputs"] for node in prompt.values() if node["class_type"] == "DeckTestWeights"] == [
        {"weights": CURVE}
    ]
    canvas.clear()
    canvas.load(saved)
    assert canvas.prompt() == prompt
    entry = canvas.queue()
    assert Client(canvas.url).texts(entry) == {shown: [CURVE]}


def test_promoted_deck_carries_its_text(canvas: Canvas):
    """Neither release draws a promoted DOM widget; its text is kept, can be set, and gives way to a link."""
    deck = Deck(canvas, "DeckTestWeights")
    shown = canvas.add("DeckTestShow", (560, 60))
    canvas.connect(deck.node, 0, shown, "text")
    deck.text = CURVE
    canvas.to_subgraph([deck.node])
    host = canvas.promote("DeckTestWeights", "weights")

    def sent() -> list[Any]:
        nodes = canvas.prompt().values()
        return [node["inputs"]["weights"] for node in nodes if node["class_type"] == "DeckTestWeights"]

    assert canvas.value(host, "weights") == CURVE and sent() == [CURVE]
    saved = canvas.save()
    canvas.clear()
    canvas.load(saved)
    assert canvas.value(host, "weights") == CURVE and sent() == [CURVE]
    canvas.set_value(host, "weights", "GRAD_A")
    assert sent() == ["GRAD_A"]
    source = canvas.add("DeckTestText", (40, 500))
    canvas.connect(source, 0, host, "weights")
    assert sent() == [[source, 0]]
    assert Client(canvas.url).texts(canvas.queue()) == {shown: ["GRAD_V"]}


def test_deck_over_25_hidden_numbers(canvas: Canvas):
    deck = Deck(canvas, "DeckTestHiddenFloats")
    box = deck.root.bounding_box()
    assert box and box["y"] < 260, "the hidden numbers take no room"
    deck.drag("IN04", 0.2, 0.75)
    sent = canvas.prompt()[deck.node]["inputs"]
    assert list(sent) == BLOCKS, "25 named numbers, and no text"
    assert sent["IN04"] == pytest.approx(0.75, abs=0.02) and sent["IN05"] == 0.5
    saved = canvas.save()
    canvas.clear()
    canvas.load(saved)
    again = Deck(canvas, node=deck.node)
    assert canvas.prompt()[deck.node]["inputs"] == sent
    assert again.painted()[4] == str(sent["IN04"]), "the view follows the loaded numbers"


def test_zoomed_out_bars_follow_the_pointer(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    canvas.zoom(0.6)
    deck.drag("IN06", 0.1, 0.5)
    assert deck.values()[6] == pytest.approx(0.5, abs=0.03)
    canvas.zoom(1)


def test_dropping_a_workflow_restores_every_deck(canvas: Canvas, tmp_path: Path):
    made = _decks(canvas)
    file = tmp_path / "shared.json"
    file.write_text(json.dumps(canvas.save()), encoding="utf-8")
    canvas.clear()
    canvas.drop(file, "application/json")
    canvas.wait_for_nodes(3)
    assert _texts(canvas) == made


def test_dropping_a_saved_picture_restores_every_deck(canvas: Canvas, tmp_path: Path):
    """The picture is one that core's SaveImage wrote from our Block Weights node."""
    deck = Deck(canvas, WEIGHTS)
    deck.text = CURVE
    canvas.set_value(deck.node, "mirror", True)
    save = canvas.add("SaveImage", (620, 60))
    canvas.connect(deck.node, 1, save, "images")
    entry = canvas.queue()
    picture = Client(canvas.url).save_images(entry, tmp_path, "weights")[0]
    canvas.clear()
    canvas.drop(picture, "image/png")
    canvas.wait_for_nodes(2)
    assert _texts(canvas) == {deck.node: CURVE}
    assert canvas.value(deck.node, "mirror") is True


def test_spec_deck(canvas: Canvas):
    deck = Deck(canvas, "DeckTestSpec")
    assert deck.text == SPEC == deck.shown
    chosen = [row.inner_text() for row in deck.root.query_selector_all(".bw-chosen .bw-name")]
    assert chosen == ["IN04", "IN05", "IN07", "IN08", "M00", "OUT03"]
    deck.press("OUT04")
    assert deck.sent == "IN04-IN08, M00=0.5, OUT03, OUT04"
    deck.press("IN05")
    deck.bar("OUT11").click(position={"x": 10, "y": 6})
    assert deck.text == "IN04, IN07, IN08, M00=0.5, OUT03, OUT04, OUT11"
    deck.drag("OUT11", 0.9, 0.25)
    assert "OUT11=0.25" in deck.text
    deck.keys("OUT11", " ")
    assert "OUT11" not in deck.text
    deck.press("up")
    assert deck.text == "up"
    assert deck.root.query_selector('.bw-bar[data-key="IN00"]') is None, "no prompt reaches IN00"
    deck.press("SDXL")
    assert deck.text == "up", "another model's blocks are drawn, the text stays"
    deck.press("all")
    saved = canvas.save()
    canvas.clear()
    canvas.load(saved)
    again = Deck(canvas, node=deck.node)
    assert again.text == "all" and len(again.root.query_selector_all(".bw-chosen")) == 11, (
        "SDXL is remembered"
    )


def test_pair_deck(canvas: Canvas):
    deck = Deck(canvas, "BlockworkMergeTwoRatios")
    deck.text = "IN01=1 | 0"
    assert deck.painted(0) == ["1"] * 25, "what M_A does not name stays A's"
    deck.drag("IN00", 0.9, 0.3, track=0)
    deck.drag("OUT11", 0.1, 0.6, track=1)
    first, second = deck.values_painted(0), deck.values_painted(1)
    assert first[0] == pytest.approx(0.3, abs=0.02) and first[1:] == [1] * 24
    assert second[24] == pytest.approx(0.6, abs=0.02) and second[:24] == [0] * 24
    assert deck.sent == deck.text and deck.text.startswith("IN00=0.3") and " | 0, OUT11=0.6" in deck.text
    deck.find(".bw-picker").click()
    deck.page.keyboard.type("GRAD_A")
    deck.page.keyboard.press("Enter")
    canvas.settle()
    first, second = ([float(number) for number in part.split(",")] for part in deck.text.split("|"))
    assert second[12] == 1 and first[12] == 0, "a preset is M_B, and M_A what is left of 1"
    deck.press("Invert")
    assert deck.text == ", ".join(f"{n:.10g}" for n in second) + " | " + ", ".join(f"{n:.10g}" for n in first)
    deck.drag("M00", 0.5, 1.0, track=1)
    deck.text = f"1 | {', '.join(['0.25'] * 19)}"
    assert deck.painted(0) == ["1"] * 19, "the side with the list tells the layout"
    deck.text = "1, 2 | 3"
    assert deck.find(".bw-error").inner_text()


def test_scale_deck_rests_at_one(canvas: Canvas):
    deck = Deck(canvas, "BlockworkScaleBlocks")
    deck.text = "IN04=0.75"
    assert deck.painted() == ["0.75" if n == 4 else "1" for n in range(25)]
    deck.drag("OUT11", 0.9, 0.5)
    values = deck.values_painted()
    assert values[:5] == [1, 1, 1, 1, 0.75] and values[24] == pytest.approx(0.5, abs=0.02)
    assert deck.text.startswith("IN04=0.75, OUT11=0."), "what the text does not name stays model A's"
    deck.press("Reset")
    assert deck.values() == [1] * 25
