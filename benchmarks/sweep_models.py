"""What the 25 models of a block sweep cost before anything is sampled, on a full-size SD1.5.

    .venv/bin/python benchmarks/sweep_models.py [FILE]

Needs a checkpoint of `make demo-full-size`. Prints CPU seconds for all 25 merge nodes together, the anonymous memory they
hold (target: below 60 s and 50 MiB), and then the CPU seconds of loading each after the one before, as a sweep
does, beside the first full load of a merge of all blocks.
"""

import gc
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from refhost import layout
from refhost.pack import load_pack, use_comfyui

load_pack()
use_comfyui()

import comfy.model_management
import comfy.sd
import torch
from blockwork.merge.live import host
from blockwork.study.sweep import parse_sweep


def resident() -> float:
    """Anonymous memory of this process in MiB."""
    gc.collect()
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024


def cpu(run) -> tuple[float, object]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def main() -> None:
    path = Path(
        sys.argv[1] if len(sys.argv) > 1 else layout.DEMO_BASE / "models/checkpoints/sd15_full_a.safetensors"
    )
    if not path.is_file():
        raise SystemExit(f"{path} is missing. Run `make demo-full-size` once to make it.")
    model = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]
    cells = parse_sweep("sd1", "ALL", "0.75", "1").cells[1:]
    host.scale_blocks(model, "0.75")  # the scan for NaN, once per model
    before = resident()
    seconds, models = cpu(lambda: [host.scale_blocks(model, cell.label)[0] for cell in cells])
    print(f"25 models: {seconds:.2f} CPU s, {resident() - before:.1f} MiB", flush=True)
    full = host.scale_blocks(model, "0.75")[0]
    whole, _ = cpu(lambda: comfy.model_management.load_models_gpu([full]))
    comfy.model_management.unload_all_models()
    sweep, _ = cpu(lambda: [comfy.model_management.load_models_gpu([cell]) for cell in models])
    print(
        f"loading all 25 in turn, full load of all blocks, ratio: {sweep:.2f}, {whole:.2f}, {sweep / whole:.2f}"
    )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
