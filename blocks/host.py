"""The user's own weight presets, from the folder ComfyUI keeps for its user."""

from pathlib import Path

import folder_paths

from . import presets

SUFFIXES = (".tsv", ".txt", ".csv")


def preset_folder() -> Path:
    """Where own preset files are looked for: ``user/blockwork/presets``; it need not exist."""
    return Path(folder_paths.get_user_directory()) / "blockwork" / "presets"


def own_presets() -> dict[str, list[float]]:
    """Every preset of the user's files, later files and lines winning; BlockError names a bad line."""
    found: dict[str, list[float]] = {}
    for path in _files():
        found |= presets.load_file(path)
    return found


def fingerprint() -> list[tuple[str, int, int]]:
    """Name, time and size of each preset file: equal means nothing changed."""
    return [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _files()]


def _files() -> list[Path]:
    folder = preset_folder()
    return sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES) if folder.is_dir() else []
