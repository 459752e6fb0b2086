"""Lays a prompt in API form out as a workflow for ComfyUI's canvas: pure, and the same on every run.

``places`` puts the nodes into groups and columns; a note stands left of them. Sizes are estimates of what the
front-end draws.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refhost.places import GAP_X, Box, arrange

Prompt = Mapping[str, Mapping[str, Any]]
Schemas = Mapping[str, Mapping[str, Any]]  # /object_info
Models = Mapping[str, Mapping[str, str]]

SLOT, WIDGET, TEXT, PREVIEW = 22, 26, 140, 280  # heights in canvas units
WIDTH, WIDE = 300, 440
LETTER = 8.4  # width of a letter of a title
NOTE_WIDTH, NOTE_LINE, NOTE_LETTERS = 480, 26, 56
DECKS = {"BLOCKWORK_WEIGHTS": 480, "BLOCKWORK_WEIGHT_PAIR": 532, "BLOCKWORK_SPEC": 446}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", *DECKS}
PREVIEWS = {"PreviewImage", "SaveImage", "PreviewAny", "LoadImage"}
SEEDS = {"seed", "noise_seed"}
OPTIONAL_SHAPE = 7  # LiteGraph's hollow circle


class GraphError(ValueError):
    """A prompt that does not fit the schemas; the message names node and input."""


@dataclass
class Input:
    """One input of a schema, as the front-end treats it."""

    name: str
    type: str
    options: Mapping[str, Any]
    optional: bool
    widget: str | None  # the kind of widget, None for a bare socket

    @property
    def default(self) -> Any:
        if "default" in self.options:
            return self.options["default"]
        if self.type == "COMBO":
            return next(iter(self.options.get("options", [])), "")
        return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(self.type, "")


def inputs_of(schema: Mapping[str, Any]) -> list[Input]:
    """A node's inputs in the order of ``widgets_values``: all required ones, then all optional ones."""
    found = []
    for kind in ("required", "optional"):
        declared = schema["input"].get(kind) or {}
        for name in (schema.get("input_order") or {}).get(kind) or declared:
            spec = declared[name]
            options = dict(spec[1]) if len(spec) > 1 and spec[1] else {}
            given = spec[0]
            if isinstance(given, list):
                given, options = "COMBO", {"options": given, **options}
            widget = options.get("widgetType") or given
            is_widget = widget in WIDGET_TYPES and not options.get("forceInput")
            found.append(Input(name, given, options, kind == "optional", widget if is_widget else None))
    return found


def widget_values(inputs: Sequence[Input], given: Mapping[str, Any]) -> list[Any]:
    """Values of the widgets by position, with those the front-end adds by itself; linked ones show their default."""
    values = []
    for item in inputs:
        if item.widget is None:
            continue
        value = given.get(item.name, item.default)
        values.append(item.default if _is_link(value) else value)
        control = item.options.get("control_after_generate", item.name in SEEDS)
        if item.type == "INT" and control:
            values.append("fixed")
        if item.options.get("image_upload"):
            values.append("image")
    return values


def draw(
    name: str,
    prompt: Prompt,
    schemas: Schemas,
    note: str = "",
    models: Models | None = None,
    app: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The workflow of a prompt, with a Markdown note where ``note`` is given, opening in App mode where ``app`` is.

    ``models`` holds url and directory of files that the front-end can offer for download, by file name. GraphError
    for a node type, an input or an output that the schemas lack.
    """
    boxes = {key: _box(key, node, schemas) for key, node in prompt.items()}
    for box in boxes.values():
        box.sources = [v[0] for v in prompt[box.key]["inputs"].values() if _is_link(v) and v[0] in boxes]
    seen: set[str] = set()
    for key in boxes:
        _circle(key, boxes, (), seen)
    groups = arrange(boxes)
    ids = ids_of(prompt)
    links: list[list[Any]] = []
    nodes = []
    ordered = sorted(boxes.values(), key=lambda box: box.at)
    for order, box in enumerate(ordered):
        schema = schemas[prompt[box.key]["class_type"]]
        node = _node(box, prompt, schema, schemas, ids, links, order)
        named = [
            value for value in node["widgets_values"] if isinstance(value, str) and value in (models or {})
        ]
        if named:
            node["properties"]["models"] = [{"name": value, **(models or {})[value]} for value in named]
        nodes.append(node)
    last = max(ids.values(), default=0)
    if note:
        last += 1
        nodes.append(_note(note, last, len(nodes)))
    by_id = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        output = by_id[source]["outputs"][slot]
        output["links"] = [*(output["links"] or []), link]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"blockwork/{name}")),
        "revision": 0,
        "last_node_id": last,
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"linearMode": True, "linearData": app} if app else {},
        "version": 0.4,
    }


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def ids_of(prompt: Prompt) -> dict[str, int]:
    """Whole-number ids: the prompt's own where they are, else by position."""
    if all(key.isdigit() for key in prompt):
        return {key: int(key) for key in prompt}
    return {key: number for number, key in enumerate(prompt, start=1)}


def _box(key: str, node: Mapping[str, Any], schemas: Schemas) -> Box:
    kind = node["class_type"]
    if kind not in schemas:
        raise GraphError(f"node {key}: unknown type {kind!r}")
    inputs = inputs_of(schemas[kind])
    unknown = set(node["inputs"]) - {item.name for item in inputs}
    if unknown:
        raise GraphError(f"node {key} ({kind}) has no input {', '.join(sorted(unknown))}")
    widgets = [item for item in inputs if item.widget]
    width = WIDE if any(item.widget in DECKS for item in widgets) else WIDTH
    height = SLOT * max(len(inputs) - len(widgets), len(schemas[kind]["output"]), 1)
    for item in widgets:
        height += DECKS.get(item.widget or "", TEXT if item.options.get("multiline") else WIDGET)
    if kind in PREVIEWS or any(item.options.get("image_upload") for item in widgets):
        height += PREVIEW
    if any(item.options.get("multiline") for item in widgets):
        width = max(width, 400)
    title = node.get("_meta", {}).get("title") or schemas[kind].get("display_name") or kind
    width = max(width, 50 + math.ceil(LETTER * len(title)))  # the front-end widens a node to its title
    return Box(key, kind, (width, height + 20), inputs)


def _circle(key: str, boxes: Mapping[str, Box], path: tuple[str, ...], seen: set[str]) -> None:
    if key in path:
        raise GraphError(f"the prompt runs in a circle: {' -> '.join((*path, key))}")
    if key not in seen:
        for source in boxes[key].sources:
            _circle(source, boxes, (*path, key), seen)
        seen.add(key)


def _note(text: str, number: int, order: int) -> dict[str, Any]:
    """A Markdown note left of the nodes; the front-end keeps it out of the prompt."""
    lines = sum(math.ceil(max(len(line), 1) / NOTE_LETTERS) for line in text.splitlines())
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [-NOTE_WIDTH - GAP_X, 0],
        "size": [NOTE_WIDTH, 80 + NOTE_LINE * lines],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "About this workflow",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def _node(
    box: Box,
    prompt: Prompt,
    schema: Mapping[str, Any],
    schemas: Schemas,
    ids: Mapping[str, int],
    links: list[list[Any]],
    order: int,
) -> dict[str, Any]:
    given = prompt[box.key]["inputs"]
    slots = []
    for item in [*(i for i in box.inputs if not i.widget), *(i for i in box.inputs if i.widget)]:
        slot: dict[str, Any] = {"name": item.name, "type": item.type, "link": None}
        if item.optional:
            slot["shape"] = OPTIONAL_SHAPE
        if item.widget:
            slot["widget"] = {"name": item.name}
        value = given.get(item.name)
        if _is_link(value):
            slot["link"] = len(links) + 1
            kind = _output_type(value, prompt, schemas, box.key)
            links.append([slot["link"], ids[value[0]], value[1], ids[box.key], len(slots), kind])
        slots.append(slot)
    kind = prompt[box.key]["class_type"]
    node: dict[str, Any] = {
        "id": ids[box.key],
        "type": kind,
        "pos": list(box.at),
        "size": list(box.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": slots,
        "outputs": [
            {"name": label, "type": kind_of, "links": None}
            for label, kind_of in zip(schema["output_name"], schema["output"], strict=True)
        ],
        "properties": {"Node name for S&R": kind},
        "widgets_values": widget_values(box.inputs, given),
    }
    title = prompt[box.key].get("_meta", {}).get("title")
    if title and title != schema.get("display_name"):
        node["title"] = title
    return node


def _output_type(value: list[Any], prompt: Prompt, schemas: Schemas, target: str) -> str:
    source, slot = value
    if source not in prompt:
        raise GraphError(f"node {target} is linked to {source!r}, which is not there")
    outputs = schemas[prompt[source]["class_type"]]["output"]
    if not 0 <= slot < len(outputs):
        raise GraphError(f"node {target} is linked to output {slot} of {source}, which has {len(outputs)}")
    return outputs[slot]
