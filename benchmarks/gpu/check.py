"""The GPU check: what the pack does on an NVIDIA card, in one JSON file and one page.

    python benchmarks/gpu/check.py [--limit SECONDS] [--only NAME,...] [--out FOLDER] [--cpu | --simulated]

Run it with the Python that runs ComfyUI; COMFYUI_PATH is the folder of ComfyUI's main.py, by default the copy that
`make test` sets up. It needs no network and no model files: it makes random models of full size (14 GB) in a temporary
folder. A part that fails or reaches its time limit is reported, and the next one runs. `--cpu` and `--simulated` (core's
NVIDIA code paths with tests/host/dynamic's simulated GPU) run every part with the tiny demo models.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Run:
    """Parts that share a process: their names, how ComfyUI loads models, and the most seconds they may take."""

    parts: tuple[str, ...]
    mode: str  # "dynamic" (ComfyUI's default on NVIDIA) or "static" (--disable-dynamic-vram)
    seconds: int


# In order of worth: the time limit leaves out the last ones. A new capability adds its part here and in parts.py.
RUNS = (
    Run(("files_sd15", "slider_sd15", "exact"), "dynamic", 150),
    Run(("injection", "stages", "unet"), "dynamic", 100),
    Run(("slider_sd15", "exact", "injection"), "static", 90),
    Run(("files_sdxl", "slider_sdxl"), "dynamic", 140),
    Run(("compiled",), "dynamic", 110),
)
START = 15  # seconds: with less time left no part is started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, default=450, help="seconds for everything (default: 450)")
    parser.add_argument("--only", default="", help="names of parts, with commas between")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the results")
    small = parser.add_mutually_exclusive_group()
    small.add_argument("--cpu", action="store_true", help="tiny models on the CPU")
    small.add_argument("--simulated", action="store_true", help="tiny models on the simulated GPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="blockwork-gpu-") as work:
        result = run_all(options, Path(work))
    (options.out / "gpu_check.json").write_text(json.dumps(result, indent=1, default=str), encoding="utf-8")
    (options.out / "gpu_check.md").write_text(page(result), encoding="utf-8")
    print(page(result))
    return int(any(run["ended"] != "done" for run in result["runs"]))


def run_all(options: argparse.Namespace, work: Path) -> dict:
    """Run the chosen parts one process after the other; returns everything that was measured."""
    began = time.monotonic()
    only = set(filter(None, options.only.split(",")))
    kind = "cpu" if options.cpu else "simulated" if options.simulated else "gpu"
    runs, seen = [], set()
    for run in RUNS:
        mode = "static" if options.cpu else run.mode
        parts = [name for name in run.parts if (not only or name in only) and (name, mode) not in seen]
        seen |= {(name, mode) for name in parts}
        left = options.limit - (time.monotonic() - began)
        if not parts:
            continue
        record: dict = {"parts": parts, "mode": mode, "ended": "left out: no time", "seconds": 0.0}
        runs.append(record)
        if left >= START:
            most = run.seconds if kind == "gpu" else left  # the caps are those of a card
            record |= run_process(parts, mode, kind, work, min(left, most))
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "kind": kind,
        "seconds": round(time.monotonic() - began, 1),
        "runs": runs,
    }


def run_process(parts: list[str], mode: str, kind: str, work: Path, seconds: float) -> dict:
    """One process of parts; what it measured before an error or its limit is kept."""
    file = work / f"{mode}-{parts[0]}.json"
    command = [sys.executable, str(HERE / "part.py"), mode, kind, str(work), str(file), *parts]
    began = time.monotonic()
    print(f"== {', '.join(parts)} ({mode}, at most {seconds:.0f} s)", flush=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(command, timeout=seconds, env=environment, check=False)
        ended = "done" if done.returncode == 0 else f"failed with {done.returncode}"
    except subprocess.TimeoutExpired:
        ended = "stopped at its limit"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {"ended": ended, "seconds": round(time.monotonic() - began, 1), "found": found}


def page(result: dict) -> str:
    """The results as Markdown."""
    about = next((run["found"]["about"] for run in result["runs"] if run.get("found", {}).get("about")), {})
    lines = [f"# GPU check, {result['date']}", "", *(f"- {name}: {value}" for name, value in about.items())]
    lines += [f"- command: `{result['command']}`", f"- seconds: {result['seconds']}"]
    if result["kind"] != "gpu":
        lines += [
            f"- No GPU was used ({result['kind']}): the figures show that the parts run, not how fast a card is."
        ]
    lines += ["", "| parts | loading | ended | seconds |", "|---|---|---|---|"]
    for run in result["runs"]:
        lines.append(f"| {', '.join(run['parts'])} | {run['mode']} | {run['ended']} | {run['seconds']} |")
    for run in result["runs"]:
        for part, figures in run.get("found", {}).get("parts", {}).items():
            lines += ["", f"## {part}, {run['mode']}", ""]
            lines += [f"- {name}: {_text(value)}" for name, value in figures.items()]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


if __name__ == "__main__":
    raise SystemExit(main())
