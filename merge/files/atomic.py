"""A file that appears whole or not at all, written by position."""

import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MergeError
from .checkpoint import Stored

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None

PART = ".blockwork-"
STALE = 60  # seconds after which an unlocked part is one of a killed process
LONGEST_NAME = 255  # bytes, on all common file systems
_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT") if hasattr(errno, name))


class Target:
    """A file written by position; disk errors become MergeErrors."""

    def __init__(self, descriptor: int, path: Path, size: int):
        self.descriptor, self.path, self.size = descriptor, path, size
        self._lock = threading.Lock()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError as error:
            raise _failed(self.path, error, self.size) from error

    def put(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += self._write(view[done:], offset + done)
        except OSError as error:
            raise _failed(self.path, error, self.size) from error

    def copy(self, source: Stored, count: int, offset: int) -> int:
        """Copy ``count`` bytes from another file to ``offset``, inside the system where that is possible."""
        done = 0
        while done < count:
            moved = self._copy_inside(source, done, offset + done, count - done)
            if not moved:
                self.put(source.read(done, count - done), offset + done)
                break
            done += moved
        return count

    def _copy_inside(self, source: Stored, start: int, offset: int, count: int) -> int:
        """Bytes copied without passing through this process; none where the system cannot."""
        if not hasattr(os, "copy_file_range"):
            return 0
        try:
            return os.copy_file_range(
                source.file.descriptor, self.descriptor, count, source.offset + start, offset
            )
        except OSError as error:
            if error.errno in (*_FULL, errno.EIO):
                raise _failed(self.path, error, self.size) from error
            return 0  # two file systems, or one that has no such call

    def _write(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.descriptor, view, offset)
        with self._lock:  # no positioned writes on this system
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.write(self.descriptor, view)


@contextmanager
def appearing(
    path: Path, size: int, *, replace: bool, ready: Callable[[], None] = lambda: None
) -> Iterator[Target]:
    """A file without a name that gets its name when all went well, its bytes on the disk by then.

    ``ready`` may still raise just before that. Without ``replace`` a file that appeared meanwhile is an error, never
    overwritten. Where the system has nameless files even a killed process leaves nothing; elsewhere a hidden
    ``.part`` file in the folder is removed on any error, and by the next merge into the folder after a kill.
    """
    part = path.with_name(f"{PART}{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        descriptor, nameless = _open(path, part)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        target = Target(descriptor, path, size)
        yield target
        os.fsync(descriptor)
        ready()
        if nameless and not replace:
            _link(f"/proc/self/fd/{descriptor}", path)
        else:
            if nameless:
                _link(f"/proc/self/fd/{descriptor}", part)
            else:
                os.close(descriptor)
                descriptor = -1
            part.replace(path) if replace else _name(part, path)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise MergeError(
            f"{path.name} appeared while the merge ran: another merge wrote it. Choose another name."
        ) from error
    except OSError as error:
        raise _failed(path, error, size) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        with suppress(OSError):
            part.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """MergeError where no file of this name can be: a folder of that name, a zero byte, a name that is too long."""
    if "\0" in str(path):
        raise MergeError("The output name holds a zero byte. Choose another name.")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise MergeError(f"The output name has more than {LONGEST_NAME} bytes. Choose a shorter name.")
    try:
        there = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise MergeError(
                f"{path.name} is a link to a file that does not exist. Choose another name."
            ) from None
        return
    except OSError as error:  # a file where a folder should be, a path that is too long, no permission
        raise _failed(path, error) from error
    if not stat.S_ISREG(there.st_mode):
        raise MergeError(f"{path.name} is a folder or a device, not a file. Choose another name.")


def _failed(path: Path, error: OSError, size: int | None = None) -> MergeError:
    how_large = "" if size is None else f" ({size / 1e9:.2f} GB)"
    advice = (
        "Free some space or choose another folder"
        if error.errno in _FULL
        else "Check the folder and its permissions, or choose another name"
    )
    return MergeError(
        f"Cannot write {path.name}{how_large}: {error.strerror}. {advice}. Nothing was written."
    )


def _open(path: Path, part: Path) -> tuple[int, bool]:
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # a file system without them
            return _locked(os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)), True
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    return _locked(os.open(part, flags, 0o666)), False


def _locked(descriptor: int) -> int:
    """Lock a part while this process lives; the system releases the lock when the process ends."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_stale(folder: Path) -> None:
    """Remove the parts that killed merges left here: old ones that no process holds a lock on."""
    for part in folder.glob(f"{PART}*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime < STALE:
                continue
            if fcntl is not None:
                descriptor = os.open(part, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                finally:
                    os.close(descriptor)
            part.unlink()


def _link(source: str, name: Path) -> None:
    """link(2) through /proc; a directory descriptor makes Python follow the link there."""
    folder = os.open(name.parent, os.O_RDONLY)
    try:
        os.link(source, name.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _name(part: Path, path: Path) -> None:
    """Rename without replacing: by a second link, or by claiming the name first where there are no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
        part.replace(path)


def _sync_folder(folder: Path) -> None:
    """Put the new name itself on the disk, where a folder can be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
