"""Drives ComfyUI's real front-end in a browser page: boots it, builds graphs, saves, loads, queues."""

import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Route

from .client import Client

# The front-end asks for these on every boot, and the browser logs a 404 when a fresh user has none of them.
ABSENT_BY_DEFAULT = ("/api/userdata", "/user.css")
# Front-end 1.47.12 logs this itself on every boot, with no pack installed.
LOGGED_BY_THE_FRONT_END = "ComfyApp graph accessed before initialization"
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.ConfirmClear": False,
}
READY = "() => window.app?.extensionManager && app.canvas?.graph && window.LiteGraph"


class Canvas:
    """One page of the front-end: ``canvas.add("BlockworkX")``, ``canvas.prompt()``, ``canvas.errors``."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        nodes2: bool = False,
        size: tuple[int, int] = (1500, 1000),
        blocked: str = "",
        settings: dict[str, Any] | None = None,
    ):
        self.url = url
        self.nodes2 = nodes2
        self.settings = {**SETTINGS, **(settings or {})}
        self.errors: list[str] = []
        self.version = ""
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.route(lambda address: urlsplit(address).netloc != urlsplit(url).netloc, _refuse)
        if blocked:
            self.page.route(blocked, _refuse)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def open(self) -> "Canvas":
        """Load the front-end and wait until a graph can be edited."""
        for name, value in {**self.settings, "Comfy.VueNodes.Enabled": self.nodes2}.items():
            _post(f"{self.url}/settings/{name}", value)
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=90_000)
        self.clear()
        return self

    def close(self) -> None:
        """Close the page and its context."""
        self.page.context.close()

    def renderer(self, nodes2: bool) -> None:
        """Switch between the classic canvas and Nodes 2.0 while the graph is open."""
        self.nodes2 = nodes2
        self.page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes2)
        self.settle()

    def settle(self, frames: int = 4) -> None:
        """Let the page draw a few frames."""
        self.page.evaluate(
            "(n) => new Promise((done) => { const step = () => (n-- ? requestAnimationFrame(step) : done()); step(); })",
            frames,
        )

    def clear(self) -> None:
        """An empty root graph at full size."""
        self.page.evaluate(
            """() => { app.canvas.setGraph?.(app.graph.rootGraph ?? app.graph); app.graph.clear();
                 app.canvas.ds.scale = 1; app.canvas.ds.offset = [80, 60]; app.canvas.setDirty(true, true); }"""
        )
        self.settle()

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

    def queue(self, timeout: float = 120) -> dict[str, Any]:
        """Press the Run button and wait; the history entry of the prompt."""
        button = self.page.get_by_role("button", name="Run", exact=True).first
        with self.page.expect_response(lambda answer: urlsplit(answer.url).path == "/api/prompt") as queued:
            button.click()
        answer = queued.value.json()
        if "prompt_id" not in answer:
            raise AssertionError(f"the server refused the prompt: {answer}")
        return Client(self.url).wait(answer["prompt_id"], timeout)

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

    def _focus_canvas(self) -> None:
        self.page.evaluate("() => { document.activeElement?.blur?.(); app.canvas.canvas.focus(); }")
        self.page.mouse.move(700, 880)

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

    def remember(self) -> None:
        """Make the present graph a step that undo comes back to.

        The front-end folds what changes within 50 ms into the step before; people are slower, so this waits.
        """
        self.page.evaluate(
            "() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()"
        )
        self.page.wait_for_timeout(150)

    def undo(self, keys: str = "Control+z") -> None:
        """Press the undo (or redo) keys, at a human's pace: the front-end drops keys while it restores a step."""
        self.page.wait_for_timeout(350)
        self.page.keyboard.press(keys)

    def where(self, node: str) -> list[float]:
        """Where a node stands and where the canvas is."""
        return self.page.evaluate(
            "(id) => [...app.graph.getNodeById(id).pos, ...app.canvas.ds.offset, app.canvas.ds.scale]", node
        )

    def zoom(self, scale: float | None = None) -> float:
        """The canvas's scale; set first when one is given, with the canvas back at its place."""
        if scale is not None:
            self.page.evaluate(
                "(s) => { app.canvas.ds.scale = s; app.canvas.ds.offset = [80, 60]; app.canvas.setDirty(true, true); }",
                scale,
            )
            self.settle(8)
        return self.page.evaluate("() => app.canvas.ds.scale")

    def look_at(self, node: str) -> None:
        """Bring a node into the middle of the view at full size."""
        self.page.evaluate(
            """(id) => { const [x, y, w, h] = app.graph.getNodeById(id).boundingRect; const view = app.canvas.canvas.getBoundingClientRect();
                 app.canvas.ds.scale = 1; app.canvas.ds.offset = [view.width / 2 - x - w / 2, view.height / 2 - y - h / 2 + 20];
                 app.canvas.setDirty(true, true); }""",
            node,
        )
        self.settle(10)

    def fit(self) -> None:
        """Show the whole graph."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.settle(30)

    def palette(self, name: str) -> None:
        """Choose a colour palette."""
        self.page.evaluate(
            "async (name) => { await app.extensionManager.setting.set('Comfy.ColorPalette', name); }", name
        )
        self.settle(8)

    @property
    def face(self) -> str:
        """Release and renderer, for names of pictures."""
        return f"{self.version}-{'nodes2' if self.nodes2 else 'classic'}"

    def drop(self, file: Path, mime: str) -> None:
        """Drop a file onto the canvas, as a user would from the desktop."""
        self.page.evaluate(
            """async ([name, mime, bytes]) => { const data = new DataTransfer();
                 data.items.add(new File([new Uint8Array(bytes)], name, { type: mime }));
                 const target = document.querySelector('#graph-canvas');
                 for (const kind of ['dragenter', 'dragover', 'drop'])
                   target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data,
                     clientX: 900, clientY: 700 })); }""",
            [file.name, mime, list(file.read_bytes())],
        )
        self.settle(10)

    def node_types(self) -> list[str]:
        """The ids of the pack's nodes that the front-end has registered."""
        return self.page.evaluate(
            "() => Object.keys(LiteGraph.registered_node_types).filter((type) => type.startsWith('Blockwork'))"
        )

    def forgive(self, address: str) -> None:
        """Forget logged errors about an address that a test knows to be missing."""
        self.errors = [error for error in self.errors if f"({address})" not in error]

    def shot(self, file: Path, clip: dict[str, float] | None = None) -> Path:
        """A picture of the page."""
        file.parent.mkdir(parents=True, exist_ok=True)
        if clip is None:
            self.page.screenshot(path=str(file))
        else:
            self.page.screenshot(path=str(file), clip=clip)  # pyright: ignore[reportArgumentType]
        return file

    def _heard(self, message: ConsoleMessage) -> None:
        address = message.location.get("url", "")
        if message.type != "error" or urlsplit(address).netloc not in ("", urlsplit(self.url).netloc):
            return
        if "404" in message.text and any(part in address for part in ABSENT_BY_DEFAULT):
            return
        if (
            LOGGED_BY_THE_FRONT_END in message.text
            or "'https://" in message.text
            or "load https://" in message.text
        ):
            return  # the default workflow asks model sites for file sizes; pages stay on this machine
        self.errors.append(f"{message.text} ({urlsplit(address).path})")


def _refuse(route: Route) -> None:
    route.abort()


def _post(address: str, value: Any) -> None:
    body = json.dumps(value).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30):
        pass
