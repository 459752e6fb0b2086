"""The demo models' workflows through the queue, as they are: whole pictures, not two steps of noise."""

import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from refhost import layout

EXAMPLES = layout.ROOT / "example_workflows" / "api"
PICTURES = {"demo_merge": 5, "demo_block_prompts": 4, "demo_deprojector": 4, "demo_words": 3}


@pytest.mark.parametrize("name", PICTURES)
def test_workflow_paints(client, name):
    prompt = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    painted = [
        np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32)
        for data in client.images(client.run(prompt))
    ]
    assert len(painted) == PICTURES[name]
    assert all(picture.shape == (128, 128, 3) and picture.std() > 15 for picture in painted)
    differing = [np.abs(a - b).mean() for a, b in itertools.pairwise(painted)]
    assert min(differing) > 1  # each picture is another


def test_the_judge_reads_a_painted_picture(client):
    prompt = json.loads((EXAMPLES / "demo_merge.json").read_text(encoding="utf-8"))
    save = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    prompt["judge"] = {
        "class_type": "BlockworkAtelierJudge",
        "inputs": {"image": prompt[save]["inputs"]["images"]},
    }
    reading = client.texts(client.run(prompt))["judge"][0].splitlines()
    assert len(reading) == 5
    assert all("colour green" in line and "shape star" in line for line in (reading[0], reading[-1]))
    assert "style smooth" in reading[0] and reading[0] != reading[-1]
