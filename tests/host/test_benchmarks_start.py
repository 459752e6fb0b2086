"""`make bench` starts every script, and every script loads: its imports and definitions run. Measuring is left to it."""

import subprocess
import sys
from pathlib import Path

import bench

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script]
    runpy.run_path(script, run_name="loaded")
    print(script)
"""


def test_every_script_loads():
    scripts = sorted(map(str, (ROOT / "benchmarks").glob("*.py")))
    code = "import sys\nscripts = sys.argv[1:]\n" + LOAD.replace("sys.argv[1:]", "scripts")
    done = subprocess.run([sys.executable, "-c", code, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line in scripts] == scripts


def test_make_bench_starts_every_script_after_the_files_they_read(monkeypatch):
    started = []

    def run(command, **_):
        started.append([Path(part).name for part in command[1:]])
        return subprocess.CompletedProcess(command, int("injection.py" in started[-1]))

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    assert bench.main() == 1, "a script that fails is reported, and the others run"
    assert started[0][0] == "make_checkpoints.py" and {"sd15_full_a", "sd15_full_b"} <= set(started[0])
    assert started[1:] == [[path.name] for path in sorted((ROOT / "benchmarks").glob("*.py"))]
