"""The real front-end on the real server, in Chromium: two releases, two renderers, one page for each.

A page is opened once and cleaned between tests; a test fails when the page logged an error meanwhile.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from refhost import layout
from refhost.browser import ARGUMENTS, BrowserMissing, chromium, frontend
from refhost.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from refhost.canvas import Canvas

PINNED = "1.47.12"  # what ComfyUI 0.30.0 installs
NEWER = "1.58.1"
FACES = [(version, nodes2) for version in (PINNED, NEWER) for nodes2 in (False, True)]
ONCE = [(PINNED, False), (NEWER, True)]  # each release and each renderer once
TEST_PACK = Path(__file__).parent / "pack"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``each_once`` run on each release and each renderer once; the others run on every pair."""
    left_out = [
        item for item in items
        if item.get_closest_marker("each_once") and item.callspec.params["page"] not in ONCE  # pyright: ignore[reportAttributeAccessIssue]
    ]  # fmt: skip
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _face_name(face: tuple[str, bool]) -> str:
    version, nodes2 = face
    return f"{version}-{'nodes2' if nodes2 else 'classic'}"


@pytest.fixture(scope="session")
def chrome() -> Iterator["Browser"]:
    """A headless Chromium; the whole tier is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api")
    try:
        program = chromium()
    except BrowserMissing as error:
        pytest.skip(str(error))
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def servers(chrome: "Browser") -> Iterator[dict[str, Server]]:
    """Running servers by front-end release, filled by ``server_of`` as tests ask for them."""
    running: dict[str, Server] = {}
    yield running
    for server in running.values():
        server.stop()


def server_of(version: str, running: dict[str, Server]) -> Server:
    """The server that shows a front-end release; skips where that release cannot be had."""
    if version not in running:
        try:
            root = () if version == PINNED else ("--front-end-root", str(frontend(version)))
        except BrowserMissing as error:
            pytest.skip(str(error))
        base = layout.HOST / f"browser-tests-{version}"
        _write_headers(base / "models" / "diffusion_models")
        server = Server(base, arguments=("--cpu", *root), packs={"deck_test": TEST_PACK})
        server.start()
        running[version] = server
    return running[version]


def _write_headers(folder: Path) -> None:
    """Files that hold a header only: the deck reads no more of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, stacks in {
        "deck_flux": {"double_blocks": 19, "single_blocks": 38},
        "deck_new": {"quux_blocks": 7},
    }.items():
        keys = [f"{stack}.{n}.attn.weight" for stack, count in stacks.items() for n in range(count)]
        header = json.dumps({key: {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 0]} for key in keys})
        data = len(header).to_bytes(8, "little") + header.encode()
        (folder / f"{name}.safetensors").write_bytes(data)


@pytest.fixture(scope="session", params=FACES, ids=_face_name)
def page(request: pytest.FixtureRequest, chrome: "Browser", servers: dict[str, Server]) -> Iterator["Canvas"]:
    """One open page of a front-end release in one renderer."""
    from refhost.canvas import Canvas

    version, nodes2 = request.param
    canvas = Canvas(chrome, server_of(version, servers).url, nodes2=nodes2).open()
    canvas.version = version
    yield canvas
    canvas.close()


@pytest.fixture
def canvas(page: "Canvas") -> Iterator["Canvas"]:
    """An empty graph; no error may be logged while the test runs."""
    page.clear()
    yield page
    page.page.keyboard.press("Escape")
    errors, page.errors = page.errors, []
    assert not errors, "the browser console logged errors: " + "; ".join(errors)


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the tests leave their screenshots."""
    return layout.HOST / "screenshots"
