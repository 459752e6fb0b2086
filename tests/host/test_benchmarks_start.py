"""Every benchmark script loads: its imports and definitions run; measuring is left to `make bench`."""

import subprocess
import sys
from pathlib import Path

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
