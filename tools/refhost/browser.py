"""Finds a Chromium, and other releases of ComfyUI's front-end, for the browser tests."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from . import layout

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip


class BrowserMissing(RuntimeError):
    """No browser, or no front-end, can be had here; the message says so in one line."""


def find_chromium() -> Path | None:
    """A Chromium of this machine: ``CHROMIUM_PATH``, then the usual program names and places."""
    given = os.environ.get("CHROMIUM_PATH")
    found = [given] if given else [shutil.which(name) for name in PROGRAMS] + list(APPLICATIONS)
    return next((Path(path) for path in found if path and Path(path).exists()), None)


def chromium() -> Path:
    """A Chromium, installed through apt when there is none and we may; BrowserMissing otherwise."""
    path = find_chromium()
    if path is None and _may_install():
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, capture_output=True, check=False, env=environment)
        path = find_chromium()
    if path is None:
        raise BrowserMissing("no Chromium here: install one, or set CHROMIUM_PATH to it")
    return path


def _may_install() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def frontend(version: str) -> Path:
    """The ``static/`` folder of a released front-end, fetched once with pip; BrowserMissing without network."""
    folder = layout.HOST / f"frontend-{version}"
    static = folder / "comfyui_frontend_package" / "static"
    if static.is_dir():
        return static
    wheels = layout.HOST / "wheels"
    command = [
        str(layout.venv_bin("python")), "-m", "pip", "download", "-q", "--no-deps",
        f"comfyui-frontend-package=={version}", "-d", str(wheels),
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(wheels.glob(f"comfyui_frontend_package-{version}-*.whl"))
    if answer.returncode or not found:
        reason = (answer.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise BrowserMissing(f"front-end {version} cannot be downloaded: {reason}")
    partial = layout.HOST / f"frontend-{version}.partial-{os.getpid()}"
    with zipfile.ZipFile(found[0]) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith(".map")]
        wheel.extractall(partial, members=names)
    if folder.exists():
        shutil.rmtree(partial)
    else:
        partial.rename(folder)
    return static
