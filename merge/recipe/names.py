"""Model names in recipes, and the files that they mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from ..errors import MergeError
from .model import Recipe

SUFFIXES = (".safetensors", ".sft")


def portable(recipe: Recipe, paths: dict[str, Path]) -> Recipe:
    """The recipe with absolute paths shortened to file names; ``paths`` learns where those files are."""
    short: dict[str, str] = {}
    for name in recipe.sources():
        if Path(name).is_absolute() or PureWindowsPath(name).is_absolute():
            short[name] = PureWindowsPath(name).name if "\\" in name else Path(name).name
            if paths.setdefault(short[name], Path(name)) != Path(name):
                raise MergeError(f"Two different files are called {short[name]}. Rename one of them.")
    if not short:
        return recipe
    lines = tuple(
        replace(
            line,
            models=tuple(short.get(name, name) for name in line.models),
            vae=short.get(line.vae, line.vae),
        )
        for line in recipe.lines
    )
    return replace(
        recipe,
        lines=lines,
        variables=tuple((name, short.get(file, file)) for name, file in recipe.variables),
        pins=tuple((short.get(name, name), digest) for name, digest in recipe.pins),
    )


class Folders:
    """Finds model files by name below some folders: as written, without suffix, or by a unique last part."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders

    def __call__(self, name: str) -> Path:
        found = {
            path.relative_to(folder).as_posix(): path
            for folder in self.folders
            for path in sorted(folder.rglob("*"))
            if is_model_file(path.name)
        }
        return found[match_name(name, list(found))]


def is_model_file(name: str) -> bool:
    """Whether a file is called as safetensors files are, in any case."""
    return name.lower().endswith(SUFFIXES)


def match_name(name: str, known: Sequence[str], what: str = "model") -> str:
    """The one of ``known`` that a recipe means by ``name``: equal, without suffix, or by its last part alone."""
    wanted = name.replace("\\", "/")
    stem = wanted.rsplit(" [", 1)[0] if wanted.endswith("]") else wanted  # AUTOMATIC1111 titles end in [hash]
    stem = _stem(stem, (".ckpt", ".pt", *SUFFIXES))
    shown = {candidate: candidate.replace("\\", "/") for candidate in known}
    for test in (
        lambda path: path == wanted,
        lambda path: _stem(path, SUFFIXES) == stem,
        lambda path: _stem(path.rsplit("/", 1)[-1], SUFFIXES) == stem,
    ):
        hits = [candidate for candidate, path in shown.items() if test(path)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise MergeError(f"{_short(name)} could be {' or '.join(hits[:20])}. Write the folder too.")
    listed = f" Available: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}." if known else ""
    raise MergeError(f"There is no {what} called {_short(name)}.{listed}")


def _stem(name: str, suffixes: Sequence[str]) -> str:
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _short(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:197]}...")
