"""A file that appears whole or not at all, written by position."""

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MergeError
from .checkpoint import Stored


class Target:
    """A file written by position, with disk errors in plain words."""

    def __init__(self, descriptor: int, path: Path, size: int):
        self.descriptor, self.path, self.size = descriptor, path, size
        self._lock = threading.Lock()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError as error:
            raise self._failed(error) from error

    def put(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += self._write(view[done:], offset + done)
        except OSError as error:
            raise self._failed(error) from error

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
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
                raise self._failed(error) from error
            return 0  # two file systems, or one that has no such call

    def _write(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.descriptor, view, offset)
        with self._lock:  # no positioned writes on this system
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.write(self.descriptor, view)

    def _failed(self, error: OSError) -> MergeError:
        return MergeError(
            f"cannot write {self.path.name} ({self.size / 1e9:.2f} GB): {error.strerror}. "
            "Free some space or choose another folder; nothing was left behind."
        )


@contextmanager
def replacing(path: Path, size: int) -> Iterator[Target]:
    """A nameless file that gets its name when all went well.

    Where the system has nameless files even a killed process leaves nothing; elsewhere a hidden ``.part``
    file beside the target is removed on any error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor, nameless = _open(path, part)
    try:
        yield Target(descriptor, path, size)
        if nameless:
            _give_name(descriptor, part)
        else:
            os.close(descriptor)
            descriptor = -1
        part.replace(path)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        part.unlink(missing_ok=True)


def _open(path: Path, part: Path) -> tuple[int, bool]:
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # a file system without them
            return os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666), True
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    return os.open(part, flags, 0o666), False


def _give_name(descriptor: int, part: Path) -> None:
    """link(2) through /proc; a directory descriptor makes Python follow the link there."""
    folder = os.open(part.parent, os.O_RDONLY)
    try:
        os.link(
            f"/proc/self/fd/{descriptor}",
            part.name,
            src_dir_fd=folder,
            dst_dir_fd=folder,
            follow_symlinks=True,
        )
    finally:
        os.close(folder)
