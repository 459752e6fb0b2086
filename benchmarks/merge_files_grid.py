"""The one-block study as files: each cell (A with one block at 0.75) beside a plain copy of A.

One process, cells and copies in turns, full-size SD1.5 fp16; the source's hash is computed once for all cells.
Prints wall and CPU seconds per file.

    benchmarks/merge_files_grid.py [FILE.safetensors] [--cells 5]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from refhost import layout
from refhost.pack import load_pack

BLOCKS = [f"IN{i:02}" for i in range(12)] + ["M00"] + [f"OUT{i:02}" for i in range(12)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made = layout.DEMO_BASE / "benchmarks" / "sd15" / "a.safetensors"
    parser.add_argument("file", nargs="?", type=Path, default=made, help="made by benchmarks/merge_files.py")
    parser.add_argument("--cells", type=int, default=5)
    options = parser.parse_args()
    load_pack()
    from blockwork.merge.files.checkpoint import FileCheckpoint
    from blockwork.merge.files.run import merge_files

    start = time.perf_counter()
    FileCheckpoint(options.file).sha256  # noqa: B018  (kept for the process)
    print(f"hash of A, once: {time.perf_counter() - start:.1f} s")
    figures: dict[str, list[tuple[float, float]]] = {"cell": [], "copy": []}
    with tempfile.TemporaryDirectory(dir=options.file.parent) as folder:
        out, copy = Path(folder, "cell.safetensors"), Path(folder, "copy.safetensors")
        for block in BLOCKS[:: max(1, 25 // options.cells)][: options.cells]:
            jobs = {
                "cell": lambda block=block: merge_files(
                    f"o = a, alpha={block}=0.75", out, files={"a": options.file}
                ),
                "copy": lambda: shutil.copyfile(options.file, copy),
            }
            for name, job in jobs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                job()
                figures[name].append((time.perf_counter() - wall, time.process_time() - cpu))
                (out if name == "cell" else copy).unlink()
    for index, what in enumerate(("wall", "CPU")):
        ours, theirs = (statistics.median(run[index] for run in figures[name]) for name in ("cell", "copy"))
        print(
            f"one cell as a file beside a plain copy, {what} s: {ours:.2f}, {theirs:.2f}, {ours / theirs:.2f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
