"""Lays a prompt in API form out as a workflow for ComfyUI's canvas: pure, and the same on every run.

Nodes stand in columns by how far they are from the sources; in each column in the order that crosses the
fewest links. Sizes are estimates of what the front-end draws.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Prompt = Mapping[str, Mapping[str, Any]]
Schemas = Mapping[str, Mapping[str, Any]]  # /object_info

TITLE, SLOT, WIDGET, TEXT, PREVIEW = 30, 22, 26, 140, 280  # heights in canvas units
WIDTH, WIDE, GAP_X, GAP_Y = 300, 440, 90, 60
DECKS = {"BLOCKWORK_WEIGHTS": 480, "BLOCKWORK_WEIGHT_PAIR": 532, "BLOCKWORK_SPEC": 446}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", *DECKS}
PREVIEWS = {"PreviewImage", "SaveImage", "PreviewAny", "LoadImage"}
SEEDS = {"seed", "noise_seed"}
OPTIONAL_SHAPE = 7  # LiteGraph's hollow circle
SWEEPS = 4


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


@dataclass
class Box:
    """A node on the canvas."""

    key: str
    inputs: list[Input]
    sources: list[str] = field(default_factory=list)
    column: int = 0
    row: float = 0
    size: tuple[int, int] = (WIDTH, 0)
    at: tuple[int, int] = (0, 0)


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


def widget_values(inputs: list[Input], given: Mapping[str, Any]) -> list[Any]:
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


def draw(name: str, prompt: Prompt, schemas: Schemas) -> dict[str, Any]:
    """The workflow of a prompt. GraphError for a node type, an input or an output that the schemas lack."""
    boxes = {key: _box(key, node, schemas) for key, node in prompt.items()}
    for box in boxes.values():
        box.sources = [v[0] for v in prompt[box.key]["inputs"].values() if _is_link(v) and v[0] in boxes]
    _arrange(boxes)
    ids = ids_of(prompt)
    links: list[list[Any]] = []
    nodes = []
    ordered = sorted(boxes.values(), key=lambda box: (box.column, box.row))
    for order, box in enumerate(ordered):
        schema = schemas[prompt[box.key]["class_type"]]
        nodes.append(_node(box, prompt, schema, schemas, ids, links, order))
    by_id = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        output = by_id[source]["outputs"][slot]
        output["links"] = [*(output["links"] or []), link]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"blockwork/{name}")),
        "revision": 0,
        "last_node_id": max(ids.values(), default=0),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
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
    return Box(key, inputs, size=(width, height + 20))


def _arrange(boxes: dict[str, Box]) -> None:
    """Columns by distance from the sources, rows by the mean of the neighbours, places by size."""
    for box in boxes.values():
        box.column = _depth(box.key, boxes, ())
    targets = {key: [b.key for b in boxes.values() if key in b.sources] for key in boxes}
    for box in boxes.values():  # a source stands right before the first that needs it
        if not box.sources and targets[box.key]:
            box.column = min(boxes[key].column for key in targets[box.key]) - 1
    columns: dict[int, list[Box]] = {}
    for box in boxes.values():
        columns.setdefault(box.column, []).append(box)
    for column in columns.values():
        for row, box in enumerate(column):
            box.row = row
    for sweep in range(SWEEPS):
        for index in sorted(columns, reverse=bool(sweep % 2)):
            neighbours = targets if sweep % 2 else {box.key: box.sources for box in columns[index]}
            column = columns[index]
            mean = {b.key: _mean([boxes[k].row for k in neighbours[b.key]], b.row) for b in column}
            column.sort(key=lambda box, mean=mean: (mean[box.key], box.row))
            for row, box in enumerate(column):
                box.row = row
    x = 0
    for index in sorted(columns):
        y = 0
        for box in columns[index]:
            box.at = (x, y)
            y += TITLE + box.size[1] + GAP_Y
        x += max(box.size[0] for box in columns[index]) + GAP_X


def _depth(key: str, boxes: dict[str, Box], path: tuple[str, ...]) -> int:
    if key in path:
        raise GraphError(f"the prompt runs in a circle: {' -> '.join((*path, key))}")
    return max((_depth(source, boxes, (*path, key)) + 1 for source in boxes[key].sources), default=0)


def _mean(rows: list[float], otherwise: float) -> float:
    return sum(rows) / len(rows) if rows else otherwise


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
