"""The pack in the front-end: it loads, and every node can be added, saved, reloaded and queued."""

from typing import Any

from refhost.canvas import Canvas
from refhost.client import Client


def test_no_error_on_boot(page: Canvas):
    assert page.errors == []


def test_every_node_is_there(canvas: Canvas):
    expected = {name for name in Client(canvas.url).get("/object_info") if name.startswith("Blockwork")}
    assert expected
    assert set(canvas.node_types()) == expected


def test_every_node_survives_save_and_reload(canvas: Canvas):
    types = canvas.node_types()
    for number, node_type in enumerate(types):
        canvas.add(node_type, (40 + 500 * (number % 6), 40 + 700 * (number // 6)))
    saved = canvas.save()
    canvas.clear()
    canvas.load(saved)
    assert _contents(canvas.save()) == _contents(saved)
    assert len(saved["nodes"]) == len(types)


def _contents(workflow: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What must survive: type, widget values, inputs and outputs of each node."""
    return sorted(
        (
            node["type"],
            str(node.get("widgets_values") or []),
            str([slot["name"] for slot in node.get("inputs", [])]),
            str([slot["name"] for slot in node.get("outputs", [])]),
        )
        for node in workflow["nodes"]
    )


def test_queue_button_runs_the_graph(canvas: Canvas):
    source = canvas.add("DeckTestText", (40, 60))
    shown = canvas.add("DeckTestShow", (500, 60))
    canvas.set_value(source, "text", f"queued from {canvas.nodes2}")
    canvas.connect(source, 0, shown, "text")
    entry = canvas.queue()
    assert Client(canvas.url).texts(entry) == {shown: [f"queued from {canvas.nodes2}"]}
