"""Other nodes replaced by those of the pack from their menu, and decks that follow a run and the zoom."""

import pytest
from blockwork.tests.support.deck import Deck
from refhost.canvas import Canvas

pytestmark = pytest.mark.each_once

CONVERT = """(id) => { const node = app.graph.getNodeById(id);
  const item = app.extensions.find((e) => e.name === 'blockwork.deck').getNodeMenuItems(node)[0];
  if (!item) return null; item.callback();
  const made = app.graph.nodes.find((n) => n.type.startsWith('Blockwork'));
  return { type: made.type, id: String(made.id), old: Boolean(app.graph.getNodeById(id)),
    widgets: Object.fromEntries(made.widgets.map((w) => [w.name, w.value])) }; }"""
QUUX = {
    "name": "QUUX7",
    "apart": ["BASE"],
    "stacks": [{"letter": "QUUX", "title": "quux_blocks", "blocks": [f"QUUX{n:02}" for n in range(7)]}],
}


def test_a_merge_of_core_becomes_one_by_block(canvas: Canvas):
    load = canvas.add("UNETLoader", (20, 60))
    merge = canvas.add("ModelMergeSD1", (420, 60))
    save = canvas.add("ModelSave", (900, 60))
    for name in ("model1", "model2"):
        canvas.connect(load, 0, merge, name)
    canvas.connect(merge, 0, save, "model")
    canvas.set_value(merge, "input_blocks.4.", 0.25)
    made = canvas.page.evaluate(CONVERT, merge)
    assert made["type"] == "BlockworkMergeModels" and not made["old"]
    assert made["widgets"]["weights"] == "BASE=0, IN00-IN03=0, IN04=0.75, IN05-IN11=0, M00=0, OUT00-OUT11=0"
    assert made["widgets"]["key_map"] == "comfy"
    inputs = canvas.prompt()[save]["inputs"], canvas.prompt()[made["id"]]["inputs"]
    assert inputs[0]["model"] == [made["id"], 0]
    assert inputs[1]["model_a"] == inputs[1]["model_b"] == [load, 0]
    note = "() => app.graph.nodes.find((node) => node.type === 'Note').widgets[0].value"
    assert canvas.page.evaluate(note).startswith("- Layers without a slider followed time_embed")
    other = canvas.add("KSampler", (20, 500))
    assert canvas.page.evaluate(
        "(id) => app.extensions.find((e) => e.name === 'blockwork.deck').getNodeMenuItems(app.graph.getNodeById(id))",
        other,
    ) == []  # fmt: skip


def test_two_nodes_of_others_become_one(canvas: Canvas):
    """A sum of a difference is Add Difference; a LoRA made and applied is one loader. The settings go along."""
    load = canvas.add("CheckpointLoaderSimple", (20, 60))
    difference, total = canvas.add("ModelMergeSubtract", (420, 60)), canvas.add("ModelMergeAdd", (820, 60))
    made, applied = canvas.add("MakeLBW //Inspire", (420, 400)), canvas.add("ApplyLBW //Inspire", (820, 400))
    for source, target, name in (
        (load, difference, "model1"), (load, difference, "model2"), (load, total, "model1"), (difference, total, "model2"),
        (total, made, "model"), (total, applied, "model"), (made, applied, "lbw_model"),
    ):  # fmt: skip
        canvas.connect(source, 0, target, name)
    for node in (made, applied):
        canvas.connect(load, 1, node, "clip")
    canvas.set_value(difference, "multiplier", 0.5)
    lora = canvas.page.evaluate(CONVERT, applied)
    assert lora["type"] == "BlockworkLoadLoRA" and lora["widgets"]["strength_model"] == 0.8
    assert [lora["widgets"][name] for name in ("a", "b", "seed")] == [4, 1, 3]
    assert lora["widgets"]["weights"].startswith("1,0,0,0,0,0,0,0,1")
    canvas.page.evaluate(CONVERT, total)
    left = {node["type"]: str(node["id"]) for node in canvas.save()["nodes"]}
    assert set(left) == {"CheckpointLoaderSimple", "BlockworkLoadLoRA", "BlockworkAddDifference", "Note"}
    inputs = canvas.prompt()[left["BlockworkAddDifference"]]["inputs"]
    assert [inputs[f"model_{letter}"] for letter in "abc"] == [[load, 0]] * 3 and inputs["weights"] == "0.5"
    inputs = canvas.prompt()[left["BlockworkLoadLoRA"]]["inputs"]
    assert inputs["model"] == [left["BlockworkAddDifference"], 0] and inputs["clip"] == [load, 1]


def test_a_deck_takes_the_blocks_of_the_model_that_its_node_got(canvas: Canvas):
    deck = Deck(canvas, "BlockworkScaleBlocks")
    deck.text = "0.5"
    assert len(deck.painted()) == 25
    run = "([id, layout]) => app.graph.getNodeById(id).onExecuted({ blockwork_layout: [layout] })"
    canvas.page.evaluate(run, [deck.node, QUUX])
    canvas.settle()
    assert deck.painted() == ["0.5"] * 7 and deck.bar("QUUX06")
    deck.drag("QUUX03", 0.5, 0.9)
    assert "QUUX03=0." in deck.text


def test_texts_are_left_out_far_away(canvas: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    try:
        canvas.zoom(0.3)
        assert canvas.page.evaluate("() => document.body.classList.contains('bw-far')")
    finally:
        canvas.zoom(1)
    assert deck.find(".bw-name").evaluate("(e) => getComputedStyle(e).visibility") == "visible"
