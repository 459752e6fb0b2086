"""File merges beside sd-mecha 1.1.8 and the naive load-everything algorithm.

Every run is a process of its own, the systems take turns, each figure is the median over the rounds: wall
seconds, CPU seconds (user and system, the whole process with its imports) and peak resident memory. All
merge the same two files with GRAD_V (BASE 0) in fp32 arithmetic and write their dtype: fp16, or bf16 for ``flux``, a
Flux.1 with all its blocks narrowed to 4.1 GB. sd-mecha has no blocks of Flux, so it is given a number per key. Ours
also hashes both sources for the recipe in the metadata, which the others do not do.

    benchmarks/merge_files.py [sd15|sdxl|flux|FOLDER WITH a.safetensors AND b.safetensors] [--rounds 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "model.diffusion_model."
sys.path.insert(0, str(ROOT / "tools"))

from refhost import layout

OURS = """
import sys; sys.path.insert(0, {tools!r})
from refhost.pack import load_pack
load_pack()
from blockwork.merge.files import merge_files
merge_files("out = a + b, alpha=[GRAD_V, BASE=0], key_map=mecha", {out!r},
            files={{"a": {a!r}, "b": {b!r}}}, overwrite=True)
"""
MECHA = """
{ratios}
import torch, sd_mecha
a, b = sd_mecha.model({a!r}), sd_mecha.model({b!r})
{alpha}
sd_mecha.merge(sd_mecha.weighted_sum(a, b, alpha=alpha), output={out!r}, merge_device="cpu",
               merge_dtype=torch.float32, output_dtype=torch.{dtype})
"""
NAIVE = """
{ratios}
import sys; sys.path.insert(0, {tools!r})
from refhost.pack import load_pack
load_pack()
import torch
from safetensors.torch import load_file, save_file
from blockwork.blocks.keymap import block_of
a, b = load_file({a!r}), load_file({b!r})
for key in a:
    alpha = {ratio}
    if key in b and a[key].is_floating_point():
        a[key] = torch.lerp(a[key].float(), b[key].float(), alpha).to(torch.{dtype})
save_file(a, {out!r})
"""
MAKE = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from refhost.pack import load_pack, use_comfyui
load_pack(); use_comfyui()
import torch
from safetensors.torch import save_file
from refhost import checkpoints
from blockwork.tests.support import networks
folder, what = Path(sys.argv[2]), sys.argv[3]
pool = torch.randn(1 << 24)
for seed, name in enumerate("ab", 11):
    path = folder / f"{name}.safetensors"
    if what == "flux":
        shapes = networks.build("Flux.1 dev", hidden_size=1280, num_heads=10).state_dict()
        numbers = pool.roll(seed).bfloat16()
        shapes = {key.replace("_norm.weight", "_norm.scale"): t for key, t in shapes.items()}  # as in files
        save_file({key: numbers.repeat(-(-t.numel() // len(numbers)))[: t.numel()].view(t.shape).clone()
                   for key, t in shapes.items()}, path)
    else:
        levels = (1, 2, 4) if what == "sdxl" else (1, 2, 4, 4)
        checkpoints.make(path, checkpoints.Kind(what.upper(), levels), seed)
"""
SYSTEMS = {"ours": OURS, "sd-mecha": MECHA, "naive": NAIVE}


def _unet(kind: str, config: str, n: int, extra: dict[str, float]) -> dict[str, str]:
    ratios = f"""
names = [f"IN{{i:02}}" for i in range({n})] + ["M00"] + [f"OUT{{i:02}}" for i in range({n})]
ratios = dict(zip(names, [abs(1 - i / {n}) for i in range({2 * n + 1})]))
"""
    alpha = f"""
blocks = sd_mecha.literal({{"BASE": 0.0, **{extra!r}, **ratios}}, "{kind}-supermerger_blocks")
alpha = sd_mecha.convert(blocks, "{config}")
"""
    ratio = f"""ratios.get(block_of(key, "{kind}", "mecha") or "", 0.0)"""
    return {"ratios": ratios, "alpha": alpha, "ratio": ratio, "dtype": "float16"}


FLUX = {
    "ratios": """
import re
def ratio(key):
    found = re.match(r"(double|single)_blocks.([0-9]+)", key.removeprefix("model.diffusion_model."))
    return abs(1 - (int(found[2]) + 19 * (found[1] == "single")) / 28) if found else 0.0
""",
    "alpha": """
from sd_mecha.extensions import model_configs
config = "flux-flux"
alpha = sd_mecha.literal({key: ratio(key) for key in model_configs.resolve(config).keys()}, config)
""",
    "ratio": "ratio(key)",
    "dtype": "bfloat16",
}
KINDS = {
    "sd15": _unet("sd1", "sd1-ldm", 12, {}),
    "sdxl": _unet("sdxl", "sdxl-sgm", 9, {"VAE": 0.0}),
    "flux": FLUX,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="sd15")
    parser.add_argument("--kind", choices=KINDS, help="what a folder of your own holds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(SYSTEMS), choices=SYSTEMS)
    options = parser.parse_args()
    kind = options.kind or (options.what if options.what in KINDS else "sd15")
    folder = Path(options.what) if options.what not in KINDS else _made(options.what)
    figures: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    results = {name: folder / f"out_{name}.safetensors" for name in options.only}
    try:
        for _ in range(options.rounds):
            for name in options.only:
                results[name].unlink(missing_ok=True)
                figures[name].append(_run(SYSTEMS[name], folder, results[name], KINDS[kind]))
                print(
                    f"  {name}: " + "{:.1f} s wall, {:.1f} s CPU, {:.0f} MiB".format(*figures[name][-1]),
                    flush=True,
                )
        _report(figures)
        if {"ours", "sd-mecha"} <= set(results):
            print(_compare(results["ours"], results["sd-mecha"]))
    finally:
        for path in results.values():
            path.unlink(missing_ok=True)
    return 0


def _made(what: str) -> Path:
    """Full-size random files a and b, made once by the environment's Python."""
    folder = layout.DEMO_BASE / "benchmarks" / what
    if not (folder / "b.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", MAKE, str(ROOT / "tools"), str(folder), what], check=True)
    return folder


def _run(script: str, folder: Path, out: Path, kind: dict) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of one process."""
    text = script.format(
        tools=str(ROOT / "tools"),
        a=str(folder / "a.safetensors"),
        b=str(folder / "b.safetensors"),
        out=str(out),
        **kind,
    )
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr
    tail = process.stderr.read()[-2000:]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(tail.decode())
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _report(figures: dict[str, list[tuple[float, float, float]]]) -> None:
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in figures.items()
    }
    for peer in (name for name in medians if name != "ours"):
        for what, ours, theirs in zip(
            ("wall s", "CPU s", "peak MiB"), medians["ours"], medians[peer], strict=True
        ):
            print(f"merge files, {what}, beside {peer}: {ours:.1f}, {theirs:.1f}, {ours / theirs:.2f}")


def _compare(ours: Path, theirs: Path) -> str:
    """Float tensors of both files, bit by bit, one at a time."""
    import torch
    from safetensors import safe_open

    same, other = 0, []
    with safe_open(ours, "pt") as a, safe_open(theirs, "pt") as b:
        # sd-mecha writes keys of Flux with the prefix of a checkpoint
        names = {key.removeprefix(PREFIX): key for key in b.keys()}  # noqa: SIM118
        shared = sorted(key for key in a.keys() if key.removeprefix(PREFIX) in names)  # noqa: SIM118
        for key in shared:
            x, y = a.get_tensor(key), b.get_tensor(names[key.removeprefix(PREFIX)])
            if x.is_floating_point() and x.dtype == y.dtype:
                same, other = (same + 1, other) if torch.equal(x, y) else (same, [*other, key])
    return json.dumps({"equal to sd-mecha": same, "different": other[:8], "shared keys": len(shared)})


if __name__ == "__main__":
    raise SystemExit(main())
