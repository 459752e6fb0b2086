"""The GPU check runs without a card: every part on the CPU, one on the simulated GPU."""

import json
import os
import runpy
import subprocess
import sys

from refhost import layout

CHECK = layout.ROOT / "benchmarks" / "gpu" / "check.py"


def check(out, *options):
    command = [sys.executable, str(CHECK), "--out", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    result = json.loads((out / "gpu_check.json").read_text(encoding="utf-8"))
    return done, result, {part["part"]: part for part in result["parts"]}


def test_every_part_runs_to_its_end_on_the_cpu(tmp_path):
    done, result, parts = check(tmp_path, "--cpu", "--limit", "1500")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    listed = {part.name for part in runpy.run_path(str(CHECK), run_name="listed")["PARTS"]}
    assert parts.keys() == listed and len(result["parts"]) == len(listed)
    assert {part["ended"] for part in result["parts"]} == {"done"}
    assert all(part["figures"] for part in result["parts"])
    for name in ("float16", "bfloat16"):
        wrong, total = map(
            int, parts["exact"]["figures"][f"{name}: elements not correctly rounded"].split(" of ")
        )
        assert total > 10**5 and wrong < 1e-3 * total  # ties of float32; half arithmetic would miss a third
    assert parts["unet"]["figures"]["largest difference, relative"] < 1e-4
    assert parts["xti"]["figures"]["steps per second"] > 0
    text = (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
    assert "No GPU was used" in text and all(f"## {name}, static" in text for name in listed)


def test_a_part_runs_on_the_simulated_gpu(tmp_path):
    """Z-Image's shape under core's dynamic loading."""
    done, result, parts = check(tmp_path, "--simulated", "--only", "transformer", "--limit", "1500")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert result["about"]["patcher"] == "ModelPatcherDynamic"
    assert parts["transformer"]["figures"]["file z_image_0"]["MiB"] > 5  # with the weights of all layers
    assert parts["transformer"]["figures"]["merge and first step"]["ratio"] > 0


def test_a_part_ends_at_its_limit_and_the_next_one_starts(tmp_path):
    done, result, _ = check(tmp_path, "--cpu", "--only", "exact,unet", "--cap", "0.1", "--limit", "1500")
    assert done.returncode == 1
    ended = [(part["part"], part["ended"]) for part in result["parts"]]
    assert ended == [("exact", "stopped at its limit"), ("unet", "stopped at its limit")]


def test_without_time_every_part_is_reported_as_left_out(tmp_path):
    done, result, _ = check(tmp_path, "--cpu", "--limit", "1")
    assert done.returncode == 1
    assert {part["ended"] for part in result["parts"]} == {"left out: no time"}
    assert "slider_sdxl" in (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
