"""The articles' templates through the queue: their demo twins as they are, those for full models on small ones.

A step of Stable Diffusion at its real widths takes a second, and the sheets have up to 22 images: the demo models stand in
for checkpoints and deprojectors, small random files for IF.
"""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from blockwork.tests.support import cascade_files
from PIL import Image
from refhost import layout, templates

API = layout.ROOT / "example_workflows" / "api"
PAGES = layout.ROOT / "docs" / "articles.md", layout.ROOT / "docs" / "articles.ja.md"
NAMES = sorted(path.stem for path in API.glob("article_*.json"))
QUICK = {"steps": 1, "width": 64, "height": 64, "batch_size": 1}
IF_QUICK = {"spacing": "2", "steps": 1, "width": 16, "height": 16, "batch_size": 1}


def prompt_of(name, **changes):
    prompt = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        for key, value in changes.items():
            if not isinstance(node["inputs"].get(key), (list, type(None))):
                node["inputs"][key] = value
    return prompt


@pytest.fixture(scope="module", autouse=True)
def files(server):
    """Small random IF files; the demo models come with the pack."""
    cascade_files.make_files(server.base / "models")


def small(prompt):
    """The same graph with demo models in place of checkpoints and deprojectors of Stable Diffusion."""
    models = iter(("base", "ink", "night"))
    for node in prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node["class_type"], node["inputs"] = "BlockworkAtelierLoader", {"model": next(models)}
        elif node["class_type"] == "BlockworkLoadDeprojector":
            node["inputs"]["name"] = "atelier_lstm_1.safetensors"
        elif node["class_type"] == "BlockworkBlockGrowth":
            steps = node["inputs"]["custom"].splitlines()
            node["inputs"]["custom"] = "\n".join(f"OUT{3 + step:02}" for step in range(len(steps)))
    return prompt


def images(client, entry):
    return [np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) for data in client.images(entry)]


def cells(prompt):
    """How many images the sheet of a template has."""
    (node,) = [node for node in prompt.values() if node["class_type"] == "BlockworkImageSheet"]
    rows = node["inputs"]["rows"].splitlines()
    return len(node["inputs"]["columns"].splitlines()) * max(1, len(rows))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "demo" not in name and name != "article_004_rating"]
)
def test_templates_for_full_models(client, name):
    prompt = small(prompt_of(name, **(IF_QUICK if "_004_" in name else QUICK)))
    found = images(client, client.run(prompt))
    assert found and all(image.std() > 1 for image in found)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if "demo" in name and name not in ("article_003_demo_blocks", "article_004_demo_rating")
    ],
)
def test_demo_twins_run_as_they_are(client, name):
    prompt = prompt_of(name)
    (sheet, *_) = images(client, client.run(prompt))
    side = {"article_004_demo_guidance": 16, "article_004_demo_style": 64}.get(name, 128)
    assert sheet.shape[0] * sheet.shape[1] > cells(prompt) * side * side
    assert sheet.std() > 15


def test_the_demo_study_of_blocks(client):
    """25 blocks, four seeds and four images unchanged; here with fewer steps."""
    found = images(client, client.run(prompt_of("article_003_demo_blocks", steps=2, seeds="1")))
    assert found[0].std() > 1


@pytest.mark.parametrize("name", ["article_004_rating", "article_004_demo_rating"])
def test_rating_sheets_are_written(client, server, name):
    settings = {**IF_QUICK, "width": 64, "height": 64} if "demo" not in name else {"spacing": "3"}
    entry = client.run(small(prompt_of(name, **settings)))
    texts = list(itertools.chain.from_iterable(client.texts(entry).values()))
    (path,) = [Path(text) for text in texts if text.endswith(".html")]
    page = path.read_text(encoding="utf-8")
    pairs = page.count('class="pair"')
    assert pairs == (4 if "demo" in name else 2) and page.count("data:image/jpeg") == 2 * pairs
    assert path.is_relative_to(server.base / "output")
    path.unlink()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_page_names_every_template_and_image(page):
    text = page.read_text(encoding="utf-8")
    assert [name for name in NAMES if templates.title(name) not in text] == []
    for line in text.split("](")[1:]:
        target = line.split(")", 1)[0]
        if not target.startswith("http"):
            assert (page.parent / target.split("#")[0]).exists(), target
