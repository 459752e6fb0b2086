"""The published archive: what comfy-cli packs, which is the repository's files minus ``.comfyignore``.

comfy-cli reads ``.comfyignore`` with pathspec's ``gitwildmatch``; so does this.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from pathspec import PathSpec

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[str]:
    """The repository's files; the test is skipped outside a git checkout."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not listed:
        pytest.skip("this is not a git checkout")
    return [name for name in listed if (ROOT / name).exists()]


def packed() -> set[str]:
    """The files of the archive."""
    spec = PathSpec.from_lines("gitwildmatch", (ROOT / ".comfyignore").read_text().splitlines())
    return {name for name in tracked() if not spec.match_file(name)}


def unpack(folder: Path) -> None:
    """Put the files of the archive into a folder, as an installation does."""
    for name in packed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
