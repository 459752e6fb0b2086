"""A full-size SD1.5 checkpoint through the queue: two block groups, two areas, a plain negative.

    .venv/bin/python benchmarks/injection_full_size.py [--size 256] [--steps 2]

Needs the checkpoints of `make demo-full-size`. Queues the example workflow injection_regions three times: with its injections,
with both at weight zero, and without the nodes. The last two must be the same picture, the first another one.
Prints wall seconds of each run as `name: seconds`.
"""

import argparse
import copy
import io
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from PIL import Image
from refhost import layout
from refhost.client import Client
from refhost.server import Server

CHECKPOINT = "sd15_full_a.safetensors"


def without_nodes(prompt: dict) -> dict:
    """The workflow with every injection bypassed: its own model and conditioning go through."""
    plain = copy.deepcopy(prompt)
    nodes = {
        number: node for number, node in plain.items() if node["class_type"] == "BlockworkInjectIntoBlocks"
    }

    def source(link: list) -> list:
        while link[0] in nodes:
            link = nodes[link[0]]["inputs"]["model" if link[1] == 0 else "conditioning"]
        return link

    for node in plain.values():
        node["inputs"] = {
            name: source(value) if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
    return {number: node for number, node in plain.items() if not node["class_type"].startswith("Blockwork")}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    if not (layout.DEMO_BASE / "models" / "checkpoints" / CHECKPOINT).is_file():
        raise SystemExit(f"{CHECKPOINT} is missing. Run `make demo-full-size` once to make it.")
    path = ROOT / "example_workflows" / "api" / "injection_regions.json"
    prompt = json.loads(path.read_text(encoding="utf-8"))
    for node in prompt.values():
        inputs = node["inputs"]
        if "ckpt_name" in inputs:
            inputs["ckpt_name"] = CHECKPOINT
        if node["class_type"] == "EmptyLatentImage":
            inputs |= {"width": options.size, "height": options.size}
        if "steps" in inputs:
            inputs["steps"] = options.steps
    prompt = {
        k: node for k, node in prompt.items() if node["class_type"] not in ("PreviewImage", "PreviewAny")
    }
    off = copy.deepcopy(prompt)
    for node in off.values():
        if node["class_type"] == "BlockworkInjectIntoBlocks":
            node["inputs"]["weight"] = 0.0
    plain = without_nodes(prompt)

    pictures = {}
    with Server(layout.DEMO_BASE, arguments=("--cpu", "--fp16-unet")) as server:  # 1.7 GB, as stored
        client = Client(server.url)
        for name, one in (("injected", prompt), ("weight zero", off), ("without nodes", plain)):
            start = time.perf_counter()
            (png,) = client.images(client.run(one, timeout=3000))
            pictures[name] = (
                Image.open(io.BytesIO(png)).convert("RGB").tobytes()
            )  # the file also holds the prompt
            print(f"{name}: {time.perf_counter() - start:.1f}", flush=True)
    same = pictures["weight zero"] == pictures["without nodes"]
    changed = pictures["injected"] != pictures["without nodes"]
    print(f"weight zero is the picture without the nodes: {same}; injection changes it: {changed}")
    return 0 if same and changed else 1


if __name__ == "__main__":
    raise SystemExit(main())
