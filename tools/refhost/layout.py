"""Where the reference host keeps its things, all of it below the checkout and ignored by git."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
COMFYUI_VERSION = "0.30.0"
COMFYUI_OWN = ROOT / ".comfyui" / f"ComfyUI-{COMFYUI_VERSION}"
HOST = ROOT / ".host"  # base directories, logs, made checkpoints
TESTS_BASE = HOST / "tests"  # ComfyUI's base directory for the server and browser tiers
DEMO_BASE = HOST / "demo"  # ... for `make demo` and the full-size benchmarks


class HostError(RuntimeError):
    """Something the user has to mend; the message says what and how."""


def venv_bin(name: str) -> Path:
    """Path of a program of the virtual environment, on any platform."""
    if sys.platform == "win32":
        return VENV / "Scripts" / f"{name}.exe"
    return VENV / "bin" / name


def comfyui_path() -> Path:
    """The ComfyUI to run: ``COMFYUI_PATH`` if set, else our own copy; HostError if that is no ComfyUI."""
    given = os.environ.get("COMFYUI_PATH")
    path = Path(given).expanduser().resolve() if given else COMFYUI_OWN
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        if given:
            raise HostError(
                f"COMFYUI_PATH is {given!r}, but there is no ComfyUI there (no main.py and comfy/). "
                "Point it at the folder that holds ComfyUI's main.py, or unset it."
            )
        raise HostError(f"no ComfyUI at {path}: run `python3 tools/prepare.py` first.")
    return path
