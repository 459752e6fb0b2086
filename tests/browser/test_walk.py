"""From the template browser to a merged image, as a new user goes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blockwork.tests.support.deck import Deck
from refhost import layout, templates
from refhost.canvas import Canvas
from refhost.client import Client
from refhost.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two small checkpoints of the names that the example asks for."""
    script = layout.ROOT / "tools" / "make_checkpoints.py"
    subprocess.run([layout.venv_bin("python"), script, layout.TESTS_BASE, "sd15_a", "sd15_b"], check=True)
    paths = tmp_path_factory.mktemp("walk") / "model_paths.yaml"
    paths.write_text(
        json.dumps({"tests": {"checkpoints": str(layout.TESTS_BASE / "models" / "checkpoints")}})
    )
    with Server(  # the server tests may run beside this one, on another worker
        layout.HOST / "browser-walk", arguments=("--cpu", "--extra-model-paths-config", str(paths))
    ) as running:
        yield running


def test_from_the_template_browser_to_a_merged_image(chrome: "Browser", stocked: Server, pictures: Path):
    sorting = {"Comfy.Templates.SortBy": "alphabetical"}  # the server lists files in no order
    canvas = Canvas(chrome, stocked.url, nodes2=True, settings=sorting).open()
    canvas.page.set_default_timeout(
        60_000
    )  # a busy machine opens the browser of some hundred templates slowly
    canvas.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    canvas.page.get_by_text("blockwork", exact=True).first.click()
    card = canvas.page.get_by_test_id(f"template-workflow-{templates.title('merge_by_block')}")
    card.wait_for()
    canvas.page.wait_for_timeout(500)
    canvas.shot(pictures / "walk-1-templates.png")
    card.click()
    canvas.wait_for_nodes(14)  # 13 and the note
    canvas.page.wait_for_timeout(800)
    canvas.shot(pictures / "walk-2-workflow.png")
    types = {node["type"]: str(node["id"]) for node in canvas.save()["nodes"]}
    deck = Deck(canvas, node=types["BlockworkBlockWeights"])
    canvas.look_at(deck.node)
    deck.find(".bw-picker").click()
    canvas.page.keyboard.type("cosine")
    canvas.page.keyboard.press("Enter")
    deck.drag("M00", 0.2, 0.8)
    canvas.shot(pictures / "walk-3-weights.png")
    for node, name, value in (
        (types["EmptyLatentImage"], "width", 64),
        (types["EmptyLatentImage"], "height", 64),
        (types["KSampler"], "steps", 2),
    ):
        canvas.set_value(node, name, value)  # a test has no time for a large image
    entry = canvas.queue(timeout=300)
    assert entry["status"]["status_str"] == "success"
    assert entry["prompt"][2][deck.node]["inputs"]["weights"] == deck.shown
    pngs = [data for data in Client(stocked.url).images(entry) if data.startswith(b"\x89PNG")]
    assert len(pngs) == 2, "the merged image and the drawn weights"
    canvas.fit()
    canvas.page.wait_for_timeout(1500)
    canvas.shot(pictures / "walk-4-picture.png")
    canvas.forgive("/api/view")
    missing = [error for error in canvas.errors if "workflow_templates" not in error]
    canvas.close()
    assert missing == []
