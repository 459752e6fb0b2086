"""Core's dynamic VRAM loading, NVIDIA's default path: every ``case_*.py`` runs on the simulated GPU of this folder."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_every_case_on_the_simulated_gpu():
    """In one process, because it changes torch. For one file: ``.venv/bin/python tests/host/dynamic/run.py FILE``."""
    cases = sorted(map(str, HERE.glob("case_*.py")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HERE / "run.py"), *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"{done.stdout[-9000:]}\n{done.stderr[-2000:]}"
    assert len(cases) > 5 and " passed" in done.stdout
