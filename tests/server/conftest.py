"""One headless ComfyUI for the whole tier, with small made checkpoints."""

from collections.abc import Iterator

import pytest
from refhost import layout
from refhost.client import Client
from refhost.server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI with the pack and the small checkpoints of ``refhost.checkpoints``."""
    base = layout.HOST / "server-tests"
    with Server(base) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    """An API client of the session's server."""
    return Client(server.url)
