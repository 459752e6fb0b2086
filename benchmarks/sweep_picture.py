"""The 25 x 4 block sweep as one prompt on a real ComfyUI, small enough for a CPU; its picture for the README.

    .venv/bin/python benchmarks/sweep_picture.py [PICTURE.jpg [STEPS [PIXELS]]]

Random weights, so the picture shows the layout and not what blocks do. Prints wall and CPU seconds of the prompt.
"""

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from PIL import Image
from refhost import layout
from refhost.client import Client
from refhost.server import Server

BASE = layout.HOST / "sweep"
LARGEST = 300_000  # bytes of a picture in the README


def sweep_prompt(steps: int, pixels: int) -> dict:
    path = layout.ROOT / "example_workflows" / "api" / "block_sweep.json"
    prompt = json.loads(path.read_text(encoding="utf-8"))
    prompt["4"]["inputs"] |= {"width": pixels, "height": pixels}
    prompt["5"]["inputs"] |= {"steps": steps, "cfg": 1.0, "cell_size": pixels}
    return prompt


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def picture(client: Client, entry: dict) -> Image.Image:
    return Image.open(io.BytesIO(client.images(entry)[0])).convert("RGB")


def save(image: Image.Image, path: Path) -> None:
    """As JPEG, at the best quality that stays small enough for a README."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in range(92, 20, -6):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LARGEST:
            return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, nargs="?", default=BASE / "block_sweep.jpg")
    parser.add_argument("steps", type=int, nargs="?", default=2)
    parser.add_argument("pixels", type=int, nargs="?", default=64)
    given = parser.parse_args()
    target, steps, pixels = given.picture, given.steps, given.pixels
    script = layout.ROOT / "tools" / "make_checkpoints.py"
    subprocess.run([layout.venv_bin("python"), script, BASE, "sd15_a"], check=True)
    prompt = sweep_prompt(steps, pixels)
    with Server(BASE) as server:
        client = Client(server.url)
        wall, cpu = time.perf_counter(), cpu_seconds(server.pid)
        entry = client.run(prompt, timeout=7200)
        wall, cpu = time.perf_counter() - wall, cpu_seconds(server.pid) - cpu
        print(f"25 x 4 sweep and 4 unmodified, one prompt: {wall:.0f} s wall, {cpu:.0f} CPU s", flush=True)
        print("\n".join(client.texts(entry)["8"]), flush=True)
        save(picture(client, entry), target)


if __name__ == "__main__":
    main()
