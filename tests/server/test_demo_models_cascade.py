"""The demo models' cascade through a real server, exactly as the example workflow stands."""

import json
from io import BytesIO
from pathlib import Path

from PIL import Image

WORKFLOW = Path(__file__).resolve().parents[2] / "example_workflows/api/demo_cascade.json"


def test_text_to_64_pixels_with_and_without_threshold(client):
    entry = client.run(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    pictures = {
        name: Image.open(BytesIO(client.images(entry, f"save_{name}")[0])) for name in ("without", "dynamic")
    }
    assert {picture.size for picture in pictures.values()} == {(256, 256)}
    assert pictures["without"].tobytes() != pictures["dynamic"].tobytes()
    words = client.texts(entry)["words"][0]
    assert "saturation" in words
