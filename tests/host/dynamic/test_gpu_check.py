"""The GPU check runs without a card, on the simulated one."""

import json
import os
import subprocess
import sys

from refhost import layout

CHECK = layout.ROOT / "benchmarks" / "gpu" / "check.py"


def check(out, *options):
    command = [sys.executable, str(CHECK), "--out", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    return done, json.loads((out / "gpu_check.json").read_text(encoding="utf-8"))


def test_a_part_runs_on_the_simulated_gpu(tmp_path):
    done, result = check(tmp_path, "--simulated", "--only", "exact", "--limit", "800")
    assert done.returncode == 0, done.stdout + done.stderr
    dynamic, static = result["runs"]
    assert (dynamic["mode"], static["mode"]) == ("dynamic", "static")
    assert dynamic["found"]["about"]["patcher"] == "ModelPatcherDynamic"
    for run in result["runs"]:
        wrong, total = run["found"]["parts"]["exact"]["float16: elements not correctly rounded"].split(" of ")
        assert int(total) > 10**5
        assert int(wrong) < 1e-3 * int(total)  # ties of float32; half arithmetic would miss a third
    assert "No GPU was used" in (tmp_path / "gpu_check.md").read_text(encoding="utf-8")


def test_without_time_every_part_is_reported_as_left_out(tmp_path):
    done, result = check(tmp_path, "--cpu", "--limit", "1")
    assert done.returncode == 1
    assert {run["ended"] for run in result["runs"]} == {"left out: no time"}
    assert "slider_sd15" in (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
