"""The user's own presets as one folder of text files; what the deck saves goes into one file of it.

A line is ``name<TAB>number,number,...``; a ``# ...`` line directly above it is its description.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from .names import BlockError

SUFFIXES = (".tsv", ".txt", ".csv")
SAVED = "deck.tsv"  # the one file that is written
MOST_BYTES = 256 * 1024
MOST_PRESETS = 500
MOST_NUMBERS = 200
_NAME = re.compile(r"[^\W\d_][\w .*/+-]{0,63}")
_ABOUT = 200
_BLOCK = re.compile(
    r"(?:IN|OUT|MID|M|[A-Z]{1,2})_?\d{1,3}|BASE|VAE|CLIP|ALL|OUT|TIME_EMBED|LABEL_EMB", re.IGNORECASE
)


@dataclass(frozen=True)
class OwnPreset:
    """One preset: its numbers in the order of a weight list, one line about it, and the file it is in."""

    name: str
    values: tuple[float, ...]
    about: str
    file: str

    def line(self) -> str:
        """The preset as it is in a file."""
        about = f"# {self.about}\n" if self.about else ""
        return f"{about}{self.name}\t{','.join(repr(value).removesuffix('.0') for value in self.values)}\n"


def checked(name: str, values: list[float], about: str = "", file: str = SAVED) -> OwnPreset:
    """A preset that can be written and named in a weight text; BlockError says what is wrong with it."""
    name, about = name.strip(), " ".join(about.split())[:_ABOUT]
    if not _NAME.fullmatch(name):
        raise BlockError(
            f"{name[:80]!r} is not a valid preset name. Names start with a letter and have at most 64 letters, "
            "digits, spaces or . * / + - _ characters."
        )
    if _BLOCK.fullmatch(name):
        raise BlockError(f"{name!r} is the name of a block. Choose another name for the preset.")
    if not 2 <= len(values) <= MOST_NUMBERS or not all(map(math.isfinite, values)):
        raise BlockError(
            f"Preset {name!r} has {len(values)} numbers. Expected 2 to {MOST_NUMBERS} finite numbers, one per block."
        )
    return OwnPreset(name, tuple(map(float, values)), about, file)


def read_text(text: str, file: str) -> dict[str, OwnPreset]:
    """The presets of a file's text; lines that are not presets are left out."""
    found: dict[str, OwnPreset] = {}
    about = ""
    for line in text.lstrip("\ufeff").splitlines():
        if line.startswith("#"):
            about = line[1:].strip()
            continue
        name, _, numbers = next(
            (line.partition(mark) for mark in ("\t", ":", ",") if mark in line), (line, "", "")
        )
        try:
            preset = checked(
                name, [float(number) for number in numbers.split(",") if number.strip()], about, file
            )
            found[preset.name] = preset
        except ValueError:
            pass
        about = ""
    return found


def read_folder(folder: Path) -> dict[str, OwnPreset]:
    """Every preset of the folder's files, later files winning."""
    found: dict[str, OwnPreset] = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in SUFFIXES and path.is_file():
            found |= read_text(path.read_text(encoding="utf-8", errors="replace"), path.name)
    return found


def save(folder: Path, presets: list[OwnPreset]) -> None:
    """Add presets to the saved file, replacing those of the same name there."""
    kept = _saved(folder)
    for preset in presets:
        kept[preset.name] = preset
    if len(kept) > MOST_PRESETS:
        raise BlockError(
            f"There would be {len(kept)} saved presets. At most {MOST_PRESETS} are kept: remove some."
        )
    _write(folder, kept)


def remove(folder: Path, name: str) -> None:
    """Remove a preset from the saved file; BlockError when another file of the folder holds it."""
    kept = _saved(folder)
    if name not in kept:
        held = read_folder(folder).get(name)
        where = f"is in the file {held.file}: edit that file" if held else "does not exist"
        raise BlockError(f"The preset {name[:80]!r} {where}.")
    del kept[name]
    _write(folder, kept)


def _saved(folder: Path) -> dict[str, OwnPreset]:
    path = folder / SAVED
    return read_text(path.read_text(encoding="utf-8", errors="replace"), SAVED) if path.is_file() else {}


def _write(folder: Path, presets: dict[str, OwnPreset]) -> None:
    text = "".join(preset.line() for preset in presets.values())
    if len(text.encode()) > MOST_BYTES:
        raise BlockError(f"The saved presets would be larger than {MOST_BYTES} bytes. Remove some first.")
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / (SAVED + ".new")
    new.write_text(text, encoding="utf-8", newline="\n")
    new.replace(folder / SAVED)
