"""Block prompts on an IF stage through a real server, exactly as the example workflow stands."""

import json
from io import BytesIO
from pathlib import Path

from PIL import Image

WORKFLOW = Path(__file__).resolve().parents[2] / "example_workflows/api/injection_if_stage.json"


def test_another_word_in_some_blocks(client):
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    prompt["sigmas"]["inputs"]["spacing"] = "4"

    def images():
        entry = client.run(prompt)
        data = [client.images(entry, f"save_{name}")[0] for name in ("plain", "blocks")]
        return entry, [Image.open(BytesIO(one)).convert("RGB").tobytes() for one in data]

    entry, (plain, blocks) = images()
    assert plain != blocks
    (text,) = client.texts(entry)["plan"]
    assert "a big orange square on a black background: replace 1 in M00, OUT00, OUT01" in text
    prompt["blocks"]["inputs"]["text"] = "a big orange (~: M00=0: square; _: ring :~) on a black background"
    _, (plain, blocks) = images()
    assert plain == blocks
