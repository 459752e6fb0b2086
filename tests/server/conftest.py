"""One headless ComfyUI for the whole tier, with small made checkpoints."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from refhost import layout
from refhost.client import Client, Prompt
from refhost.server import Server

TEST_PACK = Path(__file__).parent / "pack"


def _make(*names: str) -> None:
    script = layout.ROOT / "tools" / "make_checkpoints.py"
    subprocess.run([layout.venv_bin("python"), script, layout.TESTS_BASE, *names], check=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running ComfyUI with the pack, the nodes for tests and the checkpoints sd15_a, sd15_b and sd15_c."""
    _make("sd15_a", "sd15_b", "sd15_c")
    with Server(layout.TESTS_BASE, packs={"server_test": TEST_PACK}) as running:
        yield running


@pytest.fixture(scope="session")
def sdxl_checkpoints() -> None:
    """The checkpoints sdxl_a (with text encoders) and sdxl_b (U-Net and VAE only)."""
    _make("sdxl_a", "sdxl_b")


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    """An API client of the session's server."""
    return Client(server.url)


@pytest.fixture
def example() -> Callable[[str], Prompt]:
    """``example(name)``: an example workflow in API form, shrunk to what a CPU samples in a second or two."""

    def load(name: str) -> Prompt:
        path = layout.ROOT / "example_workflows" / "api" / f"{name}.json"
        prompt = json.loads(path.read_text(encoding="utf-8"))
        for node in prompt.values():
            if node["class_type"] == "EmptyLatentImage":
                node["inputs"] |= {"width": 64, "height": 64}
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] = 2
        return prompt

    return load
