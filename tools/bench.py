"""`make bench`: every script in benchmarks/, one after the other; names on the command line choose some.

The checkpoints of full size that some scripts read are made first (random weights, 5 GB), as `make demo-full-size` does.
"""

import subprocess
import sys

from refhost import layout

FULL_SIZE = ("sd15_full_a", "sd15_full_b")


def main() -> int:
    scripts = sorted((layout.ROOT / "benchmarks").glob("*.py"))
    chosen = [script for script in scripts if not sys.argv[1:] or script.stem in sys.argv[1:]]
    made = [
        layout.venv_bin("python"),
        layout.ROOT / "tools" / "make_checkpoints.py",
        layout.DEMO_BASE,
        *FULL_SIZE,
    ]
    if subprocess.run(made, check=False).returncode:
        return 1
    failed = []
    for script in chosen:
        print(f"== {script.stem}", flush=True)
        if subprocess.run([layout.venv_bin("python"), script], check=False).returncode:
            failed.append(script.stem)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    raise SystemExit(main())
