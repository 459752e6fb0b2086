"""Where studies are kept: a journal file of Optuna's per study, or one storage that an administrator names.

Optuna is imported here and in ``samplers`` and ``study``, when a search node runs.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from .errors import SearchError
from .names import checked_name

SETTING = "storage"
OPENINGS = 6  # of a database: where two servers make its tables at once, one of them fails
MAKING_TABLES = ("IntegrityError", "ProgrammingError")
SCHEMES = ("postgresql", "mysql", "sqlite", "journal")


def optuna() -> Any:
    """The module, quiet; SearchError says what to install where it is missing."""
    try:
        import optuna as module
    except ImportError:
        raise SearchError(
            "A search needs the Python package optuna, which is not installed. Install it in ComfyUI's Python with: "
            "pip install optuna"
        ) from None
    module.logging.set_verbosity(module.logging.WARNING)
    return module


def open_storage(folder: Path, name: str, address: str = "", must_exist: bool = False) -> Any:
    """The storage of a study: ``folder/<name>.log``, or ``address`` where an administrator gives one.

    SearchError where the name is not valid, the storage cannot be opened, or there is no such file but must be.
    """
    checked_name(name)
    module = optuna()
    if address and not address.startswith("journal:"):
        return _database(module, address)
    path = Path(address.removeprefix("journal:")) if address else folder / f"{name}.log"
    if must_exist and not path.exists():
        raise SearchError(f"There is no study {name!r} yet. Run a search with this name first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return module.storages.JournalStorage(_journal(module, path))


def _database(module: Any, address: str, openings: int = OPENINGS) -> Any:
    try:
        return module.storages.get_storage(address)
    except Exception as error:  # drivers raise errors of many kinds, which can quote the password
        kind = type(error).__name__
        if kind not in MAKING_TABLES or openings == 1:
            raise SearchError(
                f"The storage of the settings file cannot be opened ({kind}). "
                "Check its address, and that its database driver is installed."
            ) from None
    time.sleep(0.5)
    return _database(module, address, openings - 1)


def _journal(module: Any, path: Path) -> Any:
    """Optuna's journal file with one flush to disk per state of a trial, not one per parameter.

    What a killed process has written stays in the system's cache, so a kill loses nothing; an unfinished last line,
    as after a full disk, is cut off when the file is opened.
    """
    backends = module.storages.journal

    class StudyFile(backends.JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            self._exclusive.acquire()
            try:
                with path.open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    if any("state" in log for log in logs):
                        os.fsync(file.fileno())
            finally:
                self._exclusive.release()

        def __init__(self) -> None:
            lock = backends.JournalFileOpenLock if os.name == "nt" else backends.JournalFileSymlinkLock
            self._exclusive = lock(str(path))
            super().__init__(str(path), self._exclusive)
            self._exclusive.acquire()
            try:
                data = path.read_bytes()
                if data and not data.endswith(b"\n"):
                    with path.open("r+b") as file:
                        file.truncate(data.rfind(b"\n") + 1)
            finally:
                self._exclusive.release()

    return StudyFile()


def read_settings(path: Path) -> str:
    """The storage address of the administrator's settings file, ``{"storage": "postgresql://..."}``; empty without one.

    SearchError where the file is not of that form.
    """
    if not path.is_file():
        return ""
    expected = f'Expected in {path.name}: {{"storage": "postgresql://user@host/database"}}, or sqlite:///, or journal:/a/file.log.'
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        address = found.get(SETTING, "")
    except (ValueError, AttributeError, OSError):
        raise SearchError(f"The settings file of the search cannot be read. {expected}") from None
    if not isinstance(address, str) or (
        address and address.partition(":")[0].partition("+")[0] not in SCHEMES
    ):
        raise SearchError(f"The settings file of the search names no valid storage. {expected}")
    return address
