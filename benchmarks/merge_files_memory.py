"""Peak memory of file merges over the number of models: 2 to 7 files, beside the naive algorithm.

Each run is a process of its own on synthetic SD1-keyed files of 0.24 GB (fp16, largest tensor 8 M elements).
Prints peak resident MiB above the bare import, and the growth per added model beside the largest tensor.

    benchmarks/merge_files_memory.py [FOLDER FOR THE FILES]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 1 << 23  # elements
START = f"""
import sys; sys.path.insert(0, {str(ROOT / "tools")!r})
from refhost.pack import load_pack
load_pack()
from blockwork.merge.files import merge_files
"""
OURS = START + "merge_files({recipe!r}, {out!r}, folders=[{folder!r}], overwrite=True)"
NAIVE = (
    START
    + """
from safetensors.torch import load_file, save_file
models = [load_file(f"{folder}/m{{i}}.safetensors") for i in range({count})]
save_file({{k: (sum(m[k].float() for m in models) / len(models)).half() for k in models[0]}}, {out!r})
"""
)
MAKE = """
import sys, torch
from safetensors.torch import save_file
folder, count, largest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
block = "model.diffusion_model.{}_blocks.{}.0.weight"
names = [block.format(part, i) for part in ("input", "output") for i in range(12)]
pool = torch.randn(largest).half()
for m in range(count):
    sizes = [largest >> (i % 3) for i in range(len(names))]
    save_file({n: pool[: s].roll(m).reshape(-1, 1024) for n, s in zip(names, sizes)}, f"{folder}/m{m}.safetensors")
"""


def main() -> int:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        subprocess.run([sys.executable, "-c", MAKE, folder, "7", str(LARGEST)], check=True)
        size = Path(folder, "m0.safetensors").stat().st_size / 2**20
        bare = _peak(START)
        print(
            f"bare import: {bare:.0f} MiB; each file {size:.0f} MiB; largest tensor {LARGEST * 4 / 2**20:.0f} MiB in fp32"
        )
        peaks = {}
        for count in range(2, 8):
            recipe = f"o = {' + '.join(f'm{i}' for i in range(count))}, 1, method=average"
            out = f"{folder}/out.safetensors"
            peaks[count] = _peak(OURS.format(recipe=recipe, out=out, folder=folder))
            naive = _peak(NAIVE.format(count=count, out=out, folder=folder))
            ours, theirs = peaks[count] - bare, naive - bare
            print(
                f"peak MiB over import, {count} models: {ours:.0f}, {theirs:.0f}, {ours / theirs:.3f}",
                flush=True,
            )
        growth = (peaks[7] - peaks[2]) / 5
        print(f"growth per model in largest tensors (fp16): {growth:.1f} MiB, {LARGEST * 2 / 2**20:.0f} MiB, "
              f"{growth / (LARGEST * 2 / 2**20):.2f}")  # fmt: skip
    return 0


def _peak(script: str) -> float:
    """Peak resident MiB of a process that runs the script."""
    process = subprocess.Popen([sys.executable, "-c", script])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"a run failed with status {status}")
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    raise SystemExit(main())
