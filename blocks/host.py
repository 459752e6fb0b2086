"""Block weights as nodes read them: with the user's presets, from the folder ComfyUI keeps for its user."""

from pathlib import Path

import folder_paths

from . import presets
from .names import BlockError, Layout
from .weight_check import check
from .weights import BlockWeights, named_presets, parse, split_pair

SUFFIXES = (".tsv", ".txt", ".csv")


def read_weights(
    text: str, layout: "str | Layout", default: float = 0.0, bypass: bool = False
) -> BlockWeights:
    """``parse``, with the user's presets, which take precedence over built-in ones.

    Preset files are read only when the text names a preset; a bad line in them is an error only for its own name.
    """
    wanted = named_presets(text)
    if not wanted:
        return parse(text, layout, default, bypass=bypass)
    own, bad = _own_presets()
    for name in wanted & set(bad):
        raise bad[name]
    return parse(text, layout, default, own, bypass)


def check_weights(text: str) -> None:
    """BlockError where no model can take a weight text: see ``weight_check``."""
    check(text, own_presets() if named_presets(text) else ())


def check_pair(text: str) -> None:
    """``check_weights`` of both sides of ``M_A | M_B``."""
    for side in split_pair(text):
        check_weights(side)


def check_optional(text: str) -> None:
    """``check_weights`` of a text that may be empty."""
    if text.strip():
        check_weights(text)


def fingerprint(*texts: str | None) -> dict[str, list[float]]:
    """The values of the user's presets that the texts name (None: a linked text, known only later)."""
    wanted = set().union(*(named_presets(text) for text in texts if text))
    own = own_presets() if wanted else {}
    return {name: own[name] for name in sorted(wanted & set(own))}


def own_presets() -> dict[str, list[float]]:
    """The user's presets by name; lines that cannot be read are left out."""
    return _own_presets()[0]


def preset_folder() -> Path:
    """The folder of the user's preset files: ``user/blockwork/presets``; it need not exist."""
    return Path(folder_paths.get_user_directory()) / "blockwork" / "presets"


def _own_presets() -> tuple[dict[str, list[float]], dict[str, BlockError]]:
    """Every preset of the user's files, later files and lines take precedence, and the errors of bad lines by name."""
    found: dict[str, list[float]] = {}
    bad: dict[str, BlockError] = {}
    folder = preset_folder()
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix in SUFFIXES:
            found |= presets.load_file(path, bad)
    return found, bad
