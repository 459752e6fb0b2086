"""What a Dask worker does with the ComfyUI that its name is the address of. Sent to workers whole: stdlib and Dask only.

A worker ends itself when its ComfyUI does not answer: Dask then gives the task to another worker.
"""

import http.client
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed import Reschedule, Status, Worker, get_worker

from .client import LOCAL, Client, Prompt, PromptFailed, PromptRefused

RESOURCE = "comfyui"
SUBFOLDER = "blockwork_sweep"  # of ComfyUI's temp folder, which it empties when it starts
SHORTEST, LONGEST = 0.02, 1.0  # seconds between two looks at a running prompt
SHARE = 0.05  # of the time that it has run
PATIENCE = 5.0  # seconds between two questions whether the server still has the prompt

Images = list[list[bytes]]  # PNG files, one list per previewing node


class Lost(ConnectionError):
    """The server does not answer, or has forgotten the prompt."""


def plan(prompt: Prompt) -> dict[str, str]:
    """The texts of the previewing nodes of a prompt, by node id."""
    return _on_server(lambda server: {k: "".join(v) for k, v in server.texts(_run(server, prompt)).items()})


def cell(prompt: Prompt, previews: Sequence[str]) -> tuple[str, float, Images]:
    """Run one cell: the address of its server, the seconds that it took there, and its images."""

    def work(server: Client) -> tuple[str, float, Images]:
        entry = _run(server, prompt)
        times = [details["timestamp"] for _, details in entry["status"]["messages"]]
        return server.url, (max(times) - min(times)) / 1000, [server.images(entry, node) for node in previews]

    return _on_server(work)


def assemble(prompt: Prompt, uploads: Mapping[str, bytes]) -> dict[str, Any]:
    """Put images into the server's temp folder by name and run a prompt that loads them: its files and texts."""

    def work(server: Client) -> dict[str, Any]:
        for name, data in uploads.items():
            _upload(server, name, data)
        entry = _run(server, prompt)
        files = [
            (image["filename"], server.view(image))
            for node in sorted(entry["outputs"], key=lambda name: (len(name), name))
            for image in entry["outputs"][node].get("images", [])
        ]
        return {"files": files, "texts": server.texts(entry)}

    return _on_server(work)


def model_files(dask_worker: Worker, names: Sequence[str]) -> dict[str, list[tuple[str, int, float]]] | str:
    """Folder, size and time of the files among ``names`` that the worker's server lists; a text where it fails."""
    server, found = Client(str(dask_worker.name)), {}
    try:
        for folder in server.get("/models"):
            listed = server.get(f"/experiment/models/{folder}")
            for file in listed:
                if file["name"] in names:
                    found.setdefault(file["name"], []).append((folder, file["size"], file["modified"]))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{server.url}: {error}"
    return found


def stop(dask_worker: Worker) -> None:
    """Cancel the prompt that the worker runs, if any."""
    prompt_id = getattr(dask_worker, "blockwork_prompt", None)
    if prompt_id:
        try:
            Client(str(dask_worker.name)).post(f"/api/jobs/{prompt_id}/cancel", {})
        except OSError:
            return


def _on_server(work: Callable[[Client], Any]) -> Any:
    """The result of ``work`` on this worker's server. RuntimeError with the server's address for its errors."""
    worker = get_worker()
    server = Client(str(worker.name))
    try:
        return work(server)
    except (PromptFailed, PromptRefused) as error:
        raise RuntimeError(f"{server.url}: {error}") from None
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{server.url}: HTTP {error.code} for {error.url}. {error.reason}") from None
    except (OSError, http.client.HTTPException):
        worker.loop.add_callback(worker.close, executor_wait=False, reason=f"{server.url} does not answer")
        while worker.status in (Status.running, Status.paused):
            time.sleep(0.02)
        raise Reschedule from None
    finally:
        worker.blockwork_prompt = None  # pyright: ignore[reportAttributeAccessIssue]


def _run(server: Client, prompt: Prompt) -> dict[str, Any]:
    """Queue a prompt and wait for its end; its history entry."""
    prompt_id = server.queue(prompt)
    get_worker().blockwork_prompt = prompt_id  # pyright: ignore[reportAttributeAccessIssue]
    start = asked = time.monotonic()
    while True:
        entry = server.finished(prompt_id)
        if entry is not None:
            return entry
        if time.monotonic() - asked > PATIENCE:
            asked = time.monotonic()
            try:
                server.get(f"/api/jobs/{prompt_id}")
            except urllib.error.HTTPError as error:
                if error.code == 404:  # it was started again in between
                    raise Lost(server.url) from None
                raise
        time.sleep(min(max(SHARE * (time.monotonic() - start), SHORTEST), LONGEST))


def _upload(server: Client, name: str, data: bytes) -> None:
    boundary = uuid.uuid4().hex
    fields = {"type": "temp", "subfolder": SUBFOLDER, "overwrite": "true"}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    body = b"".join([*parts, head.encode(), data, f"\r\n--{boundary}--\r\n".encode()])
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with LOCAL.open(urllib.request.Request(f"{server.url}/upload/image", body, kind), timeout=60):
        pass
