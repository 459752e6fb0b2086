"""The pack in the front-end: it loads, and every node can be added, saved, reloaded and queued."""

from typing import Any

import pytest
from refhost.canvas import Canvas
from refhost.client import Client


def test_no_error_on_boot(page: Canvas):
    assert page.errors == []


def test_every_node_is_there(canvas: Canvas):
    expected = {name for name in Client(canvas.url).get("/object_info") if name.startswith("Blockwork")}
    assert expected
    assert set(canvas.node_types()) == expected


@pytest.mark.each_once
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


@pytest.mark.parametrize("page", [("1.47.12", True), ("1.58.1", True)], indirect=True, ids=str)
def test_help_pages_show_their_pictures(canvas: Canvas):
    """Through the front-end's own renderer, with the base address that its help panel gives to a pack's pages."""
    widths = canvas.page.evaluate(
        """async (names) => Promise.all(names.map(async (name) => {
             const base = '/extensions/blockwork/docs/';
             const text = await (await fetch(`${base}${name}`)).text();
             const help = Object.assign(document.createElement('div'),
               { innerHTML: app.extensionManager.renderMarkdownToHtml(text, base) });
             return Promise.all([...help.querySelectorAll('img')].map(async (image) =>
               { await image.decode(); return image.naturalWidth; })); }))""",
        [f"{name}{page}" for name in canvas.node_types() for page in (".md", "/ja.md")],
    )
    assert len(widths) > 100 and all(widths), "a page without a picture"
    assert all(100 < width <= 700 for page in widths for width in page)
