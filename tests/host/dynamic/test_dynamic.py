"""Core's dynamic VRAM loading, NVIDIA's default path: every ``case_*.py`` runs on the simulated GPU of this folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CASES = sorted(HERE.glob("case_*.py"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_on_the_simulated_gpu(path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert " passed" in done.stdout
