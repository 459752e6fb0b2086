"""Running a merged file's own recipe again, and comparing the two files."""

import hashlib
import json
from pathlib import Path

from ..errors import MergeError
from .checkpoint import HASH_STRETCH, OpenFile, Tick
from .header import Header, read_header
from .metadata import VERSIONS
from .run import Merged, merge_files, recipe_of


def replay(merged: Path, output: Path | str, **kwargs) -> tuple[Merged, bool, str]:
    """Run a file's own recipe again; the new file, whether it is the same byte for byte, and the finding in words.

    ``kwargs`` are those of ``merge_files``. MergeError when a source's hash differs from the recorded one.
    """
    recipe, _ = recipe_of(merged)
    target = Path(output)
    if target.exists() and target.resolve() == merged.resolve():
        raise MergeError(f"{merged.name} would be replaced by its own replay. Choose another output name.")
    again = merge_files(recipe, output, **kwargs)
    progress = kwargs.get("on_progress", lambda done, total: None)
    old, new = OpenFile(merged), OpenFile(again.path)
    try:
        equal, finding = _compared(old, new, lambda moved: progress(0, 1))
    finally:
        old.close()
        new.close()
    return again, equal, finding


def _compared(old: OpenFile, new: OpenFile, tick: Tick) -> tuple[bool, str]:
    if old.hash(tick) == new.hash(tick):
        return True, f"{new.name} is the same as {old.name}, byte for byte (sha256 {new.sha256})."
    was, now = _header(old), _header(new)
    versions = was.metadata.get(VERSIONS, "unknown versions"), now.metadata.get(VERSIONS, "unknown versions")
    other = f" {old.name} was made with {_words(versions[0])}, the replay with {_words(versions[1])}."
    if was.entries == now.entries and _data(old, was, tick) == _data(new, now, tick):
        why = other if versions[0] != versions[1] else ""
        return (
            False,
            f"{new.name} has the same tensors as {old.name}, bit for bit. Only the metadata differ.{why}",
        )
    if versions[0] != versions[1]:
        return False, f"{new.name} differs from {old.name}.{other} Rounding can differ between them."
    return False, (
        f"{new.name} differs from {old.name}, although both were made with {_words(versions[0])}. Either "
        f"{old.name} was changed after it was merged, or the two processors round differently."
    )


def _header(file: OpenFile) -> Header:
    return read_header(file.name, file.size, lambda start, count: file.bytes_at(start, count).tobytes())


def _data(file: OpenFile, header: Header, tick: Tick) -> str:
    """The hash of the tensors alone."""
    digest = hashlib.sha256()
    for offset in range(header.start, file.size, HASH_STRETCH):
        count = min(HASH_STRETCH, file.size - offset)
        digest.update(file.bytes_at(offset, count).data)
        tick(count)
    return digest.hexdigest()


def _words(versions: str) -> str:
    try:
        found = json.loads(versions)
    except ValueError:
        return versions
    if not isinstance(found, dict):
        return versions
    return ", ".join(f"{name} {value}" for name, value in found.items())
