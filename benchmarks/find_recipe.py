"""Find Recipe on two checkpoints of 2 GB and a merge of them, beside only reading the three files.

The merge is made first, with random weights per block. Both contenders read with the same reader, in the same order and with as
many threads; they take turns, with the files in the system's cache (warm) and with the cache of these files dropped before
each run (cold, where the system can drop it). Prints `name: ours, reading, ratio` of wall seconds and CPU seconds, the
largest error of a share, and the peak memory of a process of its own that does nothing else.

    benchmarks/find_recipe.py [A.safetensors B.safetensors] [--rounds 3] [--folder FOR THE MERGE]
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from refhost import layout
from refhost.measure import Timing, interleave, ratio_line
from refhost.pack import load_pack

load_pack()
from blockwork.merge.files import merge_files
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.merge.find import find_recipe
from blockwork.merge.find.finding import READ, THREADS, reader

PEAK = """
import resource, sys
sys.path.insert(0, {tools!r})
from refhost.pack import load_pack
load_pack()
from pathlib import Path
from blockwork.merge.files.checkpoint import FileCheckpoint
from blockwork.merge.find import find_recipe
if {paths!r}:
    merge, *parents = map(FileCheckpoint, map(Path, {paths!r}))
    find_recipe(merge, parents)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def read_all(files: list[FileCheckpoint]) -> None:
    """Read every tensor of all files, as Find Recipe does."""

    def read(key: str) -> None:
        for give in [reader(file, key, READ) for file in files]:
            numel = files[0].entries[key].numel
            for start in range(0, numel, READ):
                give(start, min(start + READ, numel))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, files[0].entries))


def drop(files: list[FileCheckpoint]) -> None:
    """Take the files out of the system's cache."""
    for file in files:
        os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def cold(files: list[FileCheckpoint], rounds: int) -> dict[str, Timing]:
    """As ``interleave``, from the disk."""
    found = {"ours": Timing(), "reading": Timing()}
    for _ in range(rounds):
        for name, run in (
            ("ours", lambda: find_recipe(files[0], files[1:])),
            ("reading", lambda: read_all(files)),
        ):
            drop(files)
            once = interleave({name: run}, 1)[name]
            found[name].cpu += once.cpu
            found[name].wall += once.wall
    return found


def peak(paths: list[str]) -> float:
    """MiB of a process that finds the recipe, or only imports what that needs."""
    code = PEAK.format(tools=str(ROOT / "tools"), paths=paths)
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(ran.stdout) / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    full = layout.DEMO_BASE / "models" / "checkpoints"
    parser.add_argument(
        "parents",
        type=Path,
        nargs="*",
        default=[full / "sd15_full_a.safetensors", full / "sd15_full_b.safetensors"],
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    chance = random.Random(0)
    names = [*(f"IN{n:02}" for n in range(12)), "M00", *(f"OUT{n:02}" for n in range(12))]
    wanted = {name: round(chance.random(), 3) for name in names}
    weights = ", ".join(f"{name}={share}" for name, share in wanted.items())
    a, b = options.parents
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        made = merge_files(f"m = a + b, alpha=[{weights}]", Path(folder) / "m", files={"a": a, "b": b}).path
        files = [FileCheckpoint(path) for path in (made, a, b)]
        found = find_recipe(files[0], files[1:])
        error = max(abs(found.blocks[name].shares[1] - share) for name, share in wanted.items())
        print(f"largest error of a share: {error:.1e}", flush=True)
        runs = {
            "warm": interleave(
                {"ours": lambda: find_recipe(files[0], files[1:]), "reading": lambda: read_all(files)},
                options.rounds,
            )
        }
        if hasattr(os, "posix_fadvise"):
            runs["cold"] = cold(files, options.rounds)
        for name, timings in runs.items():
            walls = {key: Timing(cpu=timing.wall, wall=timing.wall) for key, timing in timings.items()}
            print(ratio_line(f"find recipe, {name}, wall seconds", walls["ours"], walls["reading"]))
            print(
                ratio_line(f"find recipe, {name}, CPU seconds", timings["ours"], timings["reading"]),
                flush=True,
            )
        print(
            f"peak memory: {peak([str(file.path) for file in files]):.0f} MiB, {peak([]):.0f} MiB of them imports"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
