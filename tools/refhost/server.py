"""Runs a ComfyUI headless on a free loopback port, with its own base directory and only this pack."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import layout
from .client import LOCAL
from .layout import HostError

PACK = "blockwork"
BOOT_SECONDS = 240
PORT_ATTEMPTS = 3


class Server:
    """A running ComfyUI: ``with Server(base) as server: ... server.url``.

    ``base`` holds models/, input/, output/, user/ and custom_nodes/ (made when missing); the log is
    ``base/comfyui.log``. ``packs`` are further node packs, by the name of their link in custom_nodes/.
    HostError when it does not come up, with the end of the log.
    """

    def __init__(
        self,
        base: Path,
        *,
        with_pack: bool = True,
        arguments: tuple[str, ...] = ("--cpu",),
        packs: dict[str, Path] | None = None,
    ):
        self.base = base
        self.packs = {**({PACK: layout.ROOT} if with_pack else {}), **(packs or {})}
        self.arguments = arguments
        self.log = base / "comfyui.log"
        self.url = ""
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        try:
            self.start()
        except BaseException:  # an interrupt while booting must not leave the process behind
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running ComfyUI."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Boot and wait until the API answers; a port taken by someone else in between is tried again."""
        for folder in ("custom_nodes", "models/checkpoints", "input", "output", "user"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name, folder in self.packs.items():
            _link_directory(folder, self.base / "custom_nodes" / name)
        for attempt in range(PORT_ATTEMPTS):
            port = _free_port()
            self._launch(port)
            if self._wait_until_ready():
                return
            if "address already in use" not in self._log_text().lower() or attempt == PORT_ATTEMPTS - 1:
                raise HostError(f"ComfyUI stopped while booting; the end of {self.log}:\n{self._log_tail()}")

    def stop(self) -> None:
        """End the process, gently first; harmless when it is already gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [
            str(layout.venv_bin("python")), str(layout.comfyui_path() / "main.py"),
            "--listen", "127.0.0.1", "--port", str(port),
            "--base-directory", str(self.base),
            "--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}",
            "--disable-all-custom-nodes", "--disable-api-nodes", "--disable-auto-launch",
            *self.arguments,
        ]  # fmt: skip
        if self.packs:
            command += ["--whitelist-custom-nodes", *self.packs]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.base,
                env=environment,
            )

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            if self._answers():
                return True
            time.sleep(0.2)
        self.stop()
        raise HostError(
            f"ComfyUI did not answer within {BOOT_SECONDS} s; the end of {self.log}:\n{self._log_tail()}"
        )

    def _answers(self) -> bool:
        """Whether it is this process that answers: another server may have taken the port in between."""
        try:
            with LOCAL.open(f"{self.url}/system_stats", timeout=5) as answer:
                argv = json.load(answer)["system"]["argv"]
        except (OSError, ValueError, KeyError):
            return False
        return str(self.base) in argv and self.url.rpartition(":")[2] in argv

    def _log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _log_tail(self, lines: int = 25) -> str:
        return "\n".join(self._log_text().splitlines()[-lines:])


def _free_port() -> int:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
    except OSError as error:
        raise HostError(
            f"no loopback port can be opened ({error}); is networking on 127.0.0.1 allowed here?"
        ) from error


def _link_directory(target: Path, link: Path) -> None:
    """Make ``link`` show ``target``; a junction on Windows, where symlinks need a privilege."""
    if link.is_symlink() and link.resolve() != target.resolve():
        link.unlink()  # left by a checkout that has moved
    if link.exists():
        if link.resolve() == target.resolve():
            return
        raise HostError(f"{link} is in the way: it should be a link to {target}. Remove it and run again.")
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)
