"""One page of ComfyUI's real front-end in a browser: boots it, looks, presses its buttons, hears its errors."""

import json
import urllib.request
from pathlib import Path
from typing import Any, TypeVar
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


AnyPage = TypeVar("AnyPage", bound="FrontEnd")


class FrontEnd:
    """One page of the front-end: ``page.open()``, ``page.queue()``, ``page.errors``."""

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

    def open(self: AnyPage) -> AnyPage:
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

    def queue(self, timeout: float = 120, button: bool = True) -> dict[str, Any]:
        """Press the Run button (without ``button``, do what it does) and wait; the history entry of the prompt."""
        run = self.page.get_by_role("button", name="Run", exact=True).first
        with self.page.expect_response(lambda answer: urlsplit(answer.url).path == "/api/prompt") as queued:
            if button:
                run.click()
            else:
                self.page.evaluate("() => void app.queuePrompt(0)")
        answer = queued.value.json()
        if "prompt_id" not in answer:
            raise AssertionError(f"the server refused the prompt: {answer}")
        return Client(self.url).wait(answer["prompt_id"], timeout)

    def _focus_canvas(self) -> None:
        self.page.evaluate("() => { document.activeElement?.blur?.(); app.canvas.canvas.focus(); }")
        self.page.mouse.move(700, 880)

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
