"""Builds graphs in ComfyUI's real front-end: nodes, links, values, files, subgraphs."""

import json
from typing import Any

from .frontend_page import FrontEnd


class Canvas(FrontEnd):
    """A graph on a page of the front-end: ``canvas.add("BlockworkX")``, ``canvas.prompt()``, ``canvas.errors``."""

    def add(self, node_type: str, at: tuple[int, int] = (80, 60), size: tuple[int, int] | None = None) -> str:
        """Add a node of a type; its id."""
        node = self.page.evaluate(
            """([type, at, size]) => { const node = LiteGraph.createNode(type); if (!node) return null;
                 node.pos = at; app.graph.add(node); if (size) node.setSize(size);
                 app.canvas.setDirty(true, true); return String(node.id); }""",
            [node_type, list(at), list(size) if size else None],
        )
        if node is None:
            raise AssertionError(f"the front-end knows no node type {node_type!r}")
        self.settle()
        return node

    def connect(self, source: str, output: int, target: str, name: str) -> None:
        """Link an output to the input called ``name``."""
        self.page.evaluate(
            """([source, output, target, name]) => { const node = app.graph.getNodeById(target);
                 app.graph.getNodeById(source).connect(output, node, node.inputs.findIndex((i) => i.name === name));
                 app.canvas.setDirty(true, true); }""",
            [source, output, target, name],
        )
        self.settle()

    def disconnect(self, target: str, name: str) -> None:
        """Cut the link of the input called ``name``."""
        self.page.evaluate(
            """([target, name]) => { const node = app.graph.getNodeById(target);
                 node.disconnectInput(node.inputs.findIndex((i) => i.name === name));
                 app.canvas.setDirty(true, true); }""",
            [target, name],
        )
        self.settle()

    def value(self, node: str, name: str) -> Any:
        """The value of a widget."""
        return self.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).value",
            [node, name],
        )

    def set_value(self, node: str, name: str, value: Any) -> None:
        """Give a widget a value, as a loaded file would."""
        self.page.evaluate(
            "([id, name, v]) => { app.graph.getNodeById(id).widgets.find((w) => w.name === name).value = v; }",
            [node, name, value],
        )
        self.settle()

    def save(self) -> dict[str, Any]:
        """The workflow as the front-end would write it to a file."""
        return json.loads(self.page.evaluate("() => JSON.stringify(app.graph.serialize())"))

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow, as from a file."""
        self.page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", workflow)
        self.settle()

    def prompt(self) -> dict[str, Any]:
        """The API prompt of the graph."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def decks(self) -> list[dict[str, str]]:
        """Node id and text of every deck in the open graph."""
        return self.page.evaluate(
            """() => app.graph.nodes.flatMap((node) => (node.widgets ?? []).filter((w) => w.type.startsWith('BLOCKWORK_'))
                 .map((w) => ({ id: String(node.id), text: w.value })))"""
        )

    def wait_for_nodes(self, count: int) -> None:
        """Wait until the graph holds so many nodes."""
        self.page.wait_for_function("(count) => app.graph.nodes.length === count", arg=count)
        self.settle()

    def overlaps(self) -> list[str]:
        """Pairs of nodes that cover each other, by their type."""
        return self.page.evaluate(
            """() => { const boxes = app.graph.nodes.map((node) => [node.type, ...node.boundingRect ?? node.getBounding()]);
                 return boxes.flatMap(([a, x, y, w, h], i) => boxes.slice(i + 1).filter(([, u, v, p, q]) =>
                   x < u + p && u < x + w && y < v + q && v < y + h).map(([b]) => a + ' over ' + b)); }"""
        )

    def clone(self, node: str, at: tuple[int, int]) -> str:
        """Clone a node as the node menu does; the new id."""
        made = self.page.evaluate(
            """([id, at]) => { const clone = app.graph.getNodeById(id).clone(); clone.pos = at; app.graph.add(clone);
                 app.canvas.setDirty(true, true); return String(clone.id); }""",
            [node, list(at)],
        )
        self.settle()
        return made

    def copy(self, node: str) -> None:
        """Select a node and press the copy keys over the canvas."""
        self.page.evaluate("(id) => app.canvas.selectItems([app.graph.getNodeById(id)])", node)
        self._focus_canvas()
        self.page.keyboard.press("Control+c")
        self.settle()

    def paste(self) -> None:
        """Press the paste keys over the canvas, and wait for a node."""
        self._focus_canvas()
        self.page.keyboard.press("Control+v")
        self.page.wait_for_function("() => app.graph.nodes.length > 0")
        self.settle()

    def resize(self, node: str, size: tuple[int, int]) -> None:
        """Give a node a size."""
        self.page.evaluate(
            "([id, size]) => { app.graph.getNodeById(id).setSize(size); app.canvas.setDirty(true, true); }",
            [node, list(size)],
        )
        self.settle(10)

    def to_subgraph(self, nodes: list[str]) -> None:
        """Make a subgraph of some nodes, as the selection menu does."""
        self.page.evaluate(
            """(ids) => { app.canvas.selectItems(ids.map((id) => app.graph.getNodeById(id)));
                 app.graph.convertToSubgraph(app.canvas.selectedItems); app.canvas.setDirty(true, true); }""",
            nodes,
        )
        self.settle(8)

    def promote(self, node_type: str, name: str) -> str:
        """Show a widget of a node inside the only subgraph on the subgraph's own node; that node's id."""
        host = self.page.evaluate(
            """([type, name]) => { const host = app.graph.nodes.find((node) => node.isSubgraphNode?.());
                 const inner = host.subgraph.nodes.find((node) => node.type === type);
                 host.subgraph.addInput(name, 'STRING').connect(inner.inputs.find((slot) => slot.name === name), inner);
                 app.canvas.setDirty(true, true); return String(host.id); }""",
            [node_type, name],
        )
        self.settle(8)
        return host

    def where(self, node: str) -> list[float]:
        """Where a node stands and where the canvas is."""
        return self.page.evaluate(
            "(id) => [...app.graph.getNodeById(id).pos, ...app.canvas.ds.offset, app.canvas.ds.scale]", node
        )
