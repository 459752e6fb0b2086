"""The pack's routes over HTTP: what is refused, and that ComfyUI's origin check stands in front of them."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from refhost.client import LOCAL, Client
from refhost.server import Server

PRESETS = "/blockwork/presets"


def _post(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        server.url + path, data=body, headers={"Content-Type": "application/json", **headers}
    )
    try:
        with LOCAL.open(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text


def test_presets_are_saved_listed_and_removed(server: Server, client: Client):
    body = json.dumps({"name": "ROUTE_TEST", "values": [0.5] * 25, "about": "a test"}).encode()
    status, told = _post(server, PRESETS, body)
    assert status == 200
    wanted = {
        "name": "ROUTE_TEST",
        "values": [0.5] * 25,
        "about": "a test",
        "file": "deck.tsv",
        "editable": True,
    }
    assert wanted in told["presets"] and told == client.get(PRESETS)
    assert not any("/" in preset["file"] for preset in told["presets"]), "no paths leave the server"
    status, told = _post(server, f"{PRESETS}/remove", json.dumps({"name": "ROUTE_TEST"}).encode())
    assert status == 200 and wanted not in told["presets"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (PRESETS, b'{"name": "IN05", "values": [0.5, 1]}', 400),
        (PRESETS, b'{"name": "X Y", "values": ["a"]}', 400),
        (PRESETS, b'{"name": "X Y", "values": [NaN, 1]}', 400),
        (PRESETS, b'["X"]', 400),
        (PRESETS, b"not json", 400),
        (f"{PRESETS}/remove", b'{"name": "../../etc"}', 400),
        (f"{PRESETS}/import", b'{"text": "no presets here"}', 400),
        (f"{PRESETS}/import", b'{"text": 5}', 400),
        (f"{PRESETS}/import", b" " * 600_000, 413),
    ],
)
def test_bad_requests_are_refused_with_a_reason(server: Server, path: str, body: bytes, status: int):
    found, told = _post(server, path, body)
    assert found == status and told["error"].endswith(".")


def test_other_sites_are_refused(server: Server):
    body = json.dumps({"name": "X Y", "values": [0.5] * 25}).encode()
    assert _post(server, PRESETS, body, Origin="http://evil.example")[0] == 403
    assert _post(server, PRESETS, body, **{"Content-Type": "text/plain"})[0] == 415
