"""Speaks to a ComfyUI over its HTTP API: queue a prompt, wait for it, collect texts and images."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

# A proxy of the environment is for the world outside, not for a server on this machine.
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Prompt = dict[str, dict[str, Any]]
TEXT_KEYS = ("blockwork_report", "text")


class PromptRefused(RuntimeError):
    """The server's validation turned the prompt down; ``details`` is its JSON answer."""

    def __init__(self, details: dict[str, Any]):
        super().__init__(json.dumps(details, indent=1)[:4000])
        self.details = details


class PromptFailed(RuntimeError):
    """A node raised while the prompt ran; ``details`` is the execution_error message."""

    def __init__(self, details: dict[str, Any]):
        super().__init__(f"{details.get('node_type')}: {details.get('exception_message', 'interrupted')}")
        self.details = details


class Client:
    """One client of one server: ``Client(url).run(prompt)``."""

    def __init__(self, url: str):
        self.url = url
        self.client_id = uuid.uuid4().hex

    def get(self, path: str, **query: str) -> Any:
        """GET a JSON answer."""
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: str) -> bytes:
        """GET a raw answer."""
        suffix = "?" + urllib.parse.urlencode(query) if query else ""
        with LOCAL.open(self.url + path + suffix, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST JSON; the answer parsed, or None when it is empty."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with LOCAL.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def queue(self, prompt: Prompt, extra_data: dict[str, Any] | None = None) -> str:
        """Queue a prompt in API form; its id. PromptRefused when validation fails."""
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id, "extra_data": extra_data or {}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            text = error.read()
            if error.code != 400:
                raise
            raise PromptRefused(json.loads(text)) from error

    def wait(self, prompt_id: str, timeout: float = 600) -> dict[str, Any]:
        """Wait for a queued prompt; its history entry. PromptFailed when a node raised."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.finished(prompt_id)
            if entry is not None:
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} did not end within {timeout} s")

    def finished(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a prompt that has ended, or None. PromptFailed when a node raised."""
        entry = self.get(f"/history/{prompt_id}").get(prompt_id)
        if entry is None or entry.get("status", {}).get("completed") is None:
            return None
        for kind, details in entry["status"]["messages"]:
            if kind in ("execution_error", "execution_interrupted"):
                raise PromptFailed(details)
        return entry

    def run(
        self, prompt: Prompt, timeout: float = 600, extra_data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Queue and wait; the history entry."""
        return self.wait(self.queue(prompt, extra_data), timeout)

    def images(self, entry: dict[str, Any], node: str | None = None) -> list[bytes]:
        """The bytes of the images that the prompt, or one node of it, saved or previewed, in order of node id."""
        nodes = [node] if node is not None else sorted(entry["outputs"], key=lambda name: (len(name), name))
        images = [image for name in nodes for image in entry["outputs"].get(name, {}).get("images", [])]
        return [self.view(image) for image in images]

    def view(self, image: dict[str, str]) -> bytes:
        """The bytes of an image by what a history entry calls it."""
        place = {name: image[name] for name in ("filename", "subfolder", "type")}
        return self.get_bytes("/view", **place)

    def texts(self, entry: dict[str, Any]) -> dict[str, list[str]]:
        """The text that preview nodes and the pack's report nodes showed, by node id."""
        outputs = entry["outputs"].items()
        return {node: output[key] for node, output in outputs for key in TEXT_KEYS if key in output}

    def save_images(
        self, entry: dict[str, Any], folder: Path, stem: str, node: str | None = None
    ) -> list[Path]:
        """Write the images of the prompt (or of one node) as ``folder/stem.png`` (``stem-2.png`` ...); their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, data in enumerate(self.images(entry, node), start=1):
            path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            path.write_bytes(data)
            paths.append(path)
        return paths


def executed_nodes(entry: dict[str, Any]) -> set[str]:
    """Ids of the nodes that really ran: all of the prompt's less those answered from the cache."""
    cached: set[str] = set()
    for kind, details in entry["status"]["messages"]:
        if kind == "execution_cached":
            cached.update(details["nodes"])
    return set(entry["prompt"][2]) - cached
