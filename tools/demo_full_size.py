"""`make demo-full-size`: the main job at its real size: two full-size SD1.5 checkpoints, merged block by block.

Sets up the reference host, makes two checkpoints with random weights (the real shapes; the pictures are noise with
structure), queues the merge through the API and leaves pictures and the merge report in ``demo_output/``.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from refhost import install, layout
from refhost.client import Client, Prompt, PromptFailed, PromptRefused
from refhost.server import Server

OUTPUT = layout.ROOT / "demo_output"
MODELS = {
    "v1-5-pruned-emaonly-fp16.safetensors": "sd15_full_a.safetensors",
    "DreamShaper_8_pruned.safetensors": "sd15_full_b.safetensors",
}
CHECKPOINT_BYTES = 5 * 10**9
SIZE, STEPS = 128, 6
# fp16 storage, fp32 arithmetic: a CPU would otherwise keep every weight twice as large in memory.
ARGUMENTS = ("--cpu", "--fp16-unet")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that ComfyUI is stopped as well
    try:
        install.ensure()
        make_checkpoints()
        pictures = merge()
    except (layout.HostError, PromptFailed, PromptRefused) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"demo failed: {error!r}\nComfyUI went away while working; its log is {layout.DEMO_BASE / 'comfyui.log'}. "
            "When the log just ends, the machine ran out of memory: 8 GB have to be free.",
            file=sys.stderr,
        )
        return 1
    print("Done. Look at:")
    for path in pictures:
        print(f"  {path}")
    return 0


def make_checkpoints() -> None:
    names = [name.removesuffix(".safetensors") for name in MODELS.values()]
    folder = layout.DEMO_BASE / "models" / "checkpoints"
    if all((folder / f"{name}.safetensors").is_file() for name in names):
        return
    free = shutil.disk_usage(layout.ROOT).free
    if free < CHECKPOINT_BYTES:
        raise layout.HostError(
            f"{free / 1e9:.1f} GB free, {CHECKPOINT_BYTES / 1e9:.0f} GB needed for two checkpoints."
        )
    print("making two full-size SD1.5 checkpoints with random weights (2 x 2.1 GB)", flush=True)
    script = layout.ROOT / "tools" / "make_checkpoints.py"
    command = [str(layout.venv_bin("python")), str(script), str(layout.DEMO_BASE), *names]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise layout.HostError(f"making the checkpoints failed:\n{made.stderr.strip()}")


def merge() -> list[Path]:
    print("starting ComfyUI and merging (about a minute on two cores)", flush=True)
    with Server(layout.DEMO_BASE, arguments=ARGUMENTS) as server:
        client = Client(server.url)
        started = time.monotonic()
        entry = client.run(demo_prompt())
        print(f"merged and sampled in {time.monotonic() - started:.0f} s", flush=True)
        pictures = client.save_images(entry, OUTPUT, "merge_by_block", node="11")
        pictures += client.save_images(entry, OUTPUT, "block_weights", node="12")
        report = OUTPUT / "merge_report.txt"
        report.write_text(
            "\n".join(text for texts in client.texts(entry).values() for text in texts), encoding="utf-8"
        )
    return [*pictures, report]


def demo_prompt() -> Prompt:
    """The example workflow on the full-size checkpoints, small and short enough for a CPU."""
    prompt = json.loads(
        (layout.ROOT / "example_workflows" / "api" / "merge_by_block.json").read_text(encoding="utf-8")
    )
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "CheckpointLoaderSimple":
            inputs["ckpt_name"] = MODELS[inputs["ckpt_name"]]
        elif node["class_type"] == "EmptyLatentImage":
            inputs["width"] = inputs["height"] = SIZE
        elif node["class_type"] == "KSampler":
            inputs["steps"] = STEPS
    return prompt


if __name__ == "__main__":
    raise SystemExit(main())
