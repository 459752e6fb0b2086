"""The GPU check: what the pack does on an NVIDIA card, in one JSON file and one page.

    python benchmarks/gpu/check.py [--limit SECONDS] [--cap SECONDS] [--only NAME,...] [--out FOLDER] [--cpu | --simulated]

Run it with the Python that runs ComfyUI; COMFYUI_PATH is the folder of ComfyUI's main.py, by default the copy that
`make test` sets up. It needs no network and no model files: it makes random models of full size (up to 34 GB) in a
temporary folder. A part that fails or reaches its time limit is reported, and the next one runs. `--cpu` and `--simulated` (core's
NVIDIA code paths with tests/host/dynamic's simulated GPU) run every part with the tiny demo models.
"""

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """A part, how ComfyUI loads models in it, and the most seconds that it may take."""

    name: str
    mode: str  # "dynamic" (ComfyUI's default on NVIDIA) or "static" (--disable-dynamic-vram)
    seconds: int


# In order of worth: the time limit leaves out the last ones. A new capability adds its part here and in parts.py.
PARTS = (
    Part("slider_sd15", "dynamic", 90),
    Part("exact", "dynamic", 30),
    Part("injection", "dynamic", 30),
    Part("transformer", "dynamic", 110),
    Part("stages", "dynamic", 30),
    Part("unet", "dynamic", 30),
    Part("lora", "dynamic", 30),
    Part("slider_sd15", "static", 45),
    Part("exact", "static", 25),
    Part("injection", "static", 25),
    Part("slider_sdxl", "dynamic", 110),
    Part("anima", "dynamic", 50),
    Part("xti", "dynamic", 45),
    Part("compiled", "dynamic", 80),
)
START = 15  # seconds that a process may take to start; with less left no part is started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, default=450, help="seconds for everything (default: 450)")
    parser.add_argument("--cap", type=float, help="seconds for each part, instead of its own limit")
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
    return int(any(part["ended"] != "done" for part in result["parts"]))


def run_all(options: argparse.Namespace, work: Path) -> dict:
    """Run the chosen parts, those of one way of loading in one process; returns everything that was measured."""
    began = time.monotonic()
    only = set(filter(None, options.only.split(",")))
    kind = "cpu" if options.cpu else "simulated" if options.simulated else "gpu"
    wanted = {(one.name, "static" if options.cpu else one.mode): one.seconds for one in PARTS}
    todo = [Part(*names, seconds) for names, seconds in wanted.items() if not only or names[0] in only]
    about, parts = {}, []
    while todo:
        left = options.limit - (time.monotonic() - began)
        group = list(next(itertools.groupby(todo, key=lambda one: one.mode))[1])
        if left < START:
            parts += [_record(one, "left out: no time") for one in todo]
            break
        if options.cap is not None:
            group = [replace(one, seconds=options.cap) for one in group]
        elif kind != "gpu":
            group = [replace(one, seconds=left) for one in group]  # the limits are those of a card
        found, ended, seconds = run_process(group, kind, work, left)
        about = about or found.get("about", {})
        known = [found["parts"][one.name] for one in group if one.name in found.get("parts", {})]
        known = known or [{"seconds": seconds}]  # the process did not come to its first part
        parts += [
            _record(one, **{**record, "ended": record.get("ended") or ended})
            for one, record in zip(group, known, strict=False)
        ]
        todo = todo[len(known) :]
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "kind": kind,
        "seconds": round(time.monotonic() - began, 1),
        "about": about,
        "parts": parts,
    }


def _record(part: Part, ended: str, seconds: float = 0.0, figures: dict | None = None) -> dict:
    return {
        "part": part.name,
        "loading": part.mode,
        "ended": ended,
        "seconds": seconds,
        "figures": figures or {},
    }


def run_process(parts: list[Part], kind: str, work: Path, left: float) -> tuple[dict, str, float]:
    """One process of parts: what it found, also before an error or a limit, how it ended, and its seconds."""
    file = work / "found.json"
    file.unlink(missing_ok=True)
    named = [f"{part.name}={part.seconds}" for part in parts]
    command = [sys.executable, str(HERE / "part.py"), parts[0].mode, kind, str(work), str(file), *named]
    most = min(left, START + sum(part.seconds for part in parts))
    began = time.monotonic()
    print(f"== {', '.join(part.name for part in parts)} ({parts[0].mode}, at most {most:.0f} s)", flush=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(command, timeout=most, env=environment, check=False)
        ended = "done" if done.returncode == 0 else f"failed: the process ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        ended = "stopped at its limit"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found, ended, round(time.monotonic() - began, 1)


def page(result: dict) -> str:
    """The results as Markdown."""
    lines = [f"# GPU check, {result['date']}", ""]
    lines += [f"- {name}: {value}" for name, value in result["about"].items()]
    lines += [f"- command: `{result['command']}`", f"- seconds: {result['seconds']}"]
    if result["kind"] != "gpu":
        lines += [
            f"- No GPU was used ({result['kind']}): the figures show that the parts run, not how fast a card is."
        ]
    lines += ["", "| part | loading | ended | seconds |", "|---|---|---|---|"]
    lines += ["| {part} | {loading} | {ended} | {seconds} |".format(**part) for part in result["parts"]]
    for part in result["parts"]:
        if part["figures"]:
            lines += ["", f"## {part['part']}, {part['loading']}", ""]
            lines += [f"- {name}: {_text(value)}" for name, value in part["figures"].items()]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


if __name__ == "__main__":
    raise SystemExit(main())
