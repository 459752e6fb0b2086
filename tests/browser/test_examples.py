"""The drawn example workflows mean the prompts they were drawn from; a machine without our script still queues."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from blockwork.tests.support.deck import Deck
from refhost import layout, templates
from refhost.canvas import Canvas
from refhost.client import Client
from refhost.graphs import ids_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXAMPLES = layout.ROOT / "example_workflows"
HIDDEN = """() => { const [x, y, w, h] = app.canvas.ds.visible_area;
  const boxes = app.graph.nodes.filter((node) => node.type === 'MarkdownNote').map((node) => ['note', ...node.boundingRect]);
  for (const group of app.graph._groups) boxes.push([group.title, ...group._bounding]);
  return boxes.filter(([, u, v, p, q]) => u < x || v < y || u + p > x + w || v + q > y + h).map((box) => [...box, x, y, w, h]); }"""
NAMES = sorted(
    templates.names()
)  # no two that open in App mode one after the other: the second would not be fitted


@pytest.mark.each_once
def test_drawn_workflows_give_back_their_prompts(canvas: Canvas):
    """... none of their nodes covers another, and the note and the groups are visible when they open."""
    schemas = Client(canvas.url).get("/object_info")
    for name in NAMES:
        canvas.load(json.loads(templates.drawn(name).read_text(encoding="utf-8")))
        assert canvas.overlaps() == [], name
        assert canvas.page.evaluate(HIDDEN) == [], name
        given = json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))
        ids = {key: str(number) for key, number in ids_of(given).items()}
        sent = canvas.prompt()
        assert set(sent) == set(ids.values()), name
        for key, node in given.items():
            inputs = dict(sent[ids[key]]["inputs"])
            assert sent[ids[key]]["class_type"] == node["class_type"]
            for label, value in node["inputs"].items():
                wanted = [ids[value[0]], value[1]] if isinstance(value, list) else value
                assert _same(inputs.pop(label, None), wanted), f"{name}: node {key}, {label}"
            for label, value in inputs.items():
                assert _is_default(schemas[node["class_type"]], label, value), (name, key, label, value)
    canvas.forgive("/api/view")  # pictures that the examples load are the user's own


def _same(sent: Any, wanted: Any) -> bool:
    return sent == wanted or (isinstance(wanted, float) and abs(sent - wanted) < 1e-9)


def _is_default(schema: dict[str, Any], name: str, value: Any) -> bool:
    """What the front-end adds where the prompt leaves an optional input out must be the schema's default."""
    spec = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}.get(name)
    if spec is None:
        return True  # a widget of the front-end's own, as on PreviewAny
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [None])
    return value == options.get("default", choices[0] if choices else "")


@pytest.mark.each_once
def test_blueprint_unfolds_to_its_chain(canvas: Canvas):
    listed = Client(canvas.url).get("/global_subgraphs")
    [entry] = [entry for entry in listed.values() if entry["name"] == "merge_two_checkpoints_by_block"]
    assert entry["source"] == "custom_node"
    canvas.load(json.loads((layout.ROOT / "subgraphs" / f"{entry['name']}.json").read_text(encoding="utf-8")))
    [node] = canvas.save()["nodes"]
    assert [slot["name"] for slot in node["inputs"]] == ["clip_a", "clip_b", "model_a", "model_b"]
    assert [slot["name"] for slot in node["outputs"]] == ["picture", "clip", "model", "report"]
    report = canvas.add("PreviewAny", (900, 60))
    canvas.connect(str(node["id"]), 3, report, "source")
    sent = {part["class_type"]: part["inputs"] for part in canvas.prompt().values()}
    assert sent["BlockworkBlockWeights"]["weights"] == "GRAD_V"
    assert sent["BlockworkMergeModels"]["weights"][1] == 0, "the deck's text feeds the merge"


@pytest.mark.each_once
def test_app_mode_shows_the_decks(canvas: Canvas, pictures):
    """An .app.json opens in App mode: decks at full size beside the canvas, whatever its zoom."""
    canvas.zoom(0.3)
    [file] = EXAMPLES.glob("01 *.app.json")
    workflow = json.loads(file.read_text(encoding="utf-8"))
    node = next(node for node, name in workflow["extra"]["linearData"]["inputs"] if name == "weights")
    canvas.load(workflow)
    try:
        deck = Deck(canvas, node=node)
        canvas.page.wait_for_timeout(500)
        if (skip := canvas.page.get_by_role("button", name="Skip", exact=True)).is_visible():
            skip.click()  # front-end 1.58.1 offers a tour
            skip.wait_for(state="hidden")
        assert deck.root.evaluate("(e) => !e.closest('.lg-node')"), "the panel of App mode"
        assert all(deck.find(part).is_visible() for part in (".bw-toolbar", ".bw-text", ".bw-name"))
        deck.drag("IN04", 0.2, 0.8)
        assert deck.sent == deck.shown and deck.values_painted()[4] > 0.5
        canvas.shot(pictures / f"app-{canvas.face}.png")
    finally:
        canvas.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
        canvas.settle(10)


@pytest.fixture
def bare(chrome: "Browser", page: Canvas) -> Iterator[Canvas]:
    """A page of the same server to which our script never arrives."""
    other = Canvas(chrome, page.url, nodes2=page.nodes2, blocked="**/extensions/blockwork/**").open()
    yield other
    other.close()


@pytest.mark.parametrize("page", [("1.47.12", False), ("1.47.12", True)], indirect=True, ids=str)
def test_a_machine_without_our_script_still_queues(canvas: Canvas, bare: Canvas):
    deck = Deck(canvas, "DeckTestWeights")
    deck.text = "GRAD_V"
    shown = canvas.add("DeckTestShow", (560, 60))
    canvas.connect(deck.node, 0, shown, "text")
    saved = canvas.save()
    prompt = canvas.prompt()
    bare.load(saved)
    entry = bare.queue()
    assert entry["status"]["status_str"] == "success"
    assert Client(bare.url).texts(entry) == {shown: [",".join(["0"] * 25)]}, "the node's default serves"
    assert Client(bare.url).texts(Client(bare.url).run(prompt)) == {shown: ["GRAD_V"]}, (
        "the API form keeps it"
    )
