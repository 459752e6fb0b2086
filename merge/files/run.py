"""Merging files to a file: sources are read, blended and written piece by piece, never held whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import MergeError
from ..recipe.grammar import check_portable, parse
from ..recipe.model import LINE_REFERENCE, Recipe
from ..recipe.names import Folders, portable
from .added import Added, Loras, NoLoras
from .atomic import check_target
from .checkpoint import Checkpoint, FileCheckpoint, OpenFile, metadata_of
from .ema import EmaSwapped
from .merged import MergedCheckpoint
from .metadata import RECIPE, describe
from .packed import Packed
from .writer import CHUNK, FileLayout, Tick, write

Resolve = Callable[[str], Path]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Merged:
    """A written file: where it is, the recipe with its sources' hashes, the report in words."""

    path: Path
    recipe: Recipe
    report: str


@dataclass(frozen=True)
class OpenRecipe:
    """A recipe with its files open: ``result`` is the checkpoint to be, computed when read."""

    recipe: Recipe
    files: Mapping[str, FileCheckpoint]
    loras: Mapping[str, OpenFile]  # by the name of their pin
    result: MergedCheckpoint

    @property
    def first(self) -> FileCheckpoint:
        """The file that A is, or that A was merged from first."""
        return _first_file(self.result)

    def metadata(self, hashed: bool, tick: Tick = lambda done: None) -> dict[str, str]:
        """The metadata of the result; not ``hashed``, stand-ins of the same length take the hashes' places.

        ``tick`` is called while files are hashed and may raise to stop.
        """
        names = [*self.files, *self.loras]
        hashes = self.hashes(tick) if hashed else {name: f"{i:064x}" for i, name in enumerate(names)}
        recipe = self.recipe.pinned({name: hashes[name] for name in self.loras})
        of_files = [hashes[name] for name in self.files]
        return describe(recipe, self.result.line, self.first, self.files, self.result.layout, of_files)

    def hashes(self, tick: Tick = lambda done: None) -> dict[str, str]:
        """The sha256 of every source by the name of its pin."""
        return {name: file.hash(tick) for name, file in self.sources().items()}

    def sources(self) -> dict[str, OpenFile]:
        """The files of models and LoRAs, by the name of their pin."""
        return {**self.files, **self.loras}

    def check_unchanged(self) -> None:
        """MergeError when a source was changed since it was opened."""
        for file in self.sources().values():
            file.check_unchanged()

    def order(self) -> list[str]:
        """The result's keys in the order in which A's file holds them, so that reading runs forward."""
        last = len(self.result.entries)
        places = {key: place for place, key in enumerate(sorted(self.first.entries, key=self.first.offset))}
        return sorted(self.result.entries, key=lambda key: places.get(key, last))


def merge_files(
    recipe: Recipe | str,
    output: Path | str,
    *,
    files: Mapping[str, Path | str] | None = None,
    folders: Sequence[Path | str] = (),
    resolve: Resolve | None = None,
    line: int = -1,
    own_presets: Mapping[str, Sequence[float]] | None = None,
    loras: Loras | None = None,
    overwrite: bool = False,
    threads: int = 0,
    chunk: int = CHUNK,
    on_progress: Progress = lambda done, total: None,
) -> Merged:
    """Run a recipe and write the result of its last line (or ``line``) to ``output``.

    Model names are looked up in ``files`` (name or variable -> path), then by ``resolve`` alone, or else as paths and
    in ``folders``; names of LoRAs by ``loras``. ``on_progress(bytes done, bytes in all)`` may raise to stop. Nothing half-written is left; a
    source is never overwritten, another file only with ``overwrite``; a file made by this very recipe from these
    very sources is left as it is. Raises MergeError (RecipeError,
    BlockError) with what to do about it.
    """
    target = Path(output)
    if target.suffix != ".safetensors":
        target = target.with_name(f"{target.name}.safetensors")
    check_target(target)

    def waiting(moved: int) -> None:
        on_progress(0, 1)

    with opened(
        recipe,
        files=files,
        folders=folders,
        resolve=resolve,
        line=line,
        own_presets=own_presets,
        loras=loras,
        tick=waiting,
    ) as open_recipe:
        if _is_there_already(target, open_recipe, overwrite, waiting):
            words = f"{target.name} already exists and matches this recipe. Nothing was written."
            return Merged(target, open_recipe.recipe.pinned(open_recipe.hashes()), words)
        result = open_recipe.result
        total, done = FileLayout.of(Packed(result)).total, 0

        def tick(moved: int) -> None:
            nonlocal done
            done += moved
            on_progress(min(done, total), total)

        result.prepare(lambda moved: on_progress(0, total))
        write(
            result,
            target,
            open_recipe.metadata,
            replace_existing=overwrite,
            ready=open_recipe.check_unchanged,
            naming=open_recipe.first.naming,
            threads=threads,
            chunk=chunk,
            order=open_recipe.order(),
            begin=open_recipe.first.start,
            tick=tick,
        )
        return Merged(target, open_recipe.recipe.pinned(open_recipe.hashes()), result.report.text())


@contextmanager
def opened(
    recipe: Recipe | str,
    *,
    files: Mapping[str, Path | str] | None = None,
    folders: Sequence[Path | str] = (),
    resolve: Resolve | None = None,
    line: int = -1,
    own_presets: Mapping[str, Sequence[float]] | None = None,
    loras: Loras | None = None,
    tick: Tick = lambda done: None,
) -> Iterator[OpenRecipe]:
    """Open the files a line needs, check pinned hashes, and plan the line; files close at the end.

    ``tick`` is called while pinned files are hashed and may raise to stop.
    """
    recipe = parse(recipe) if isinstance(recipe, str) else recipe
    paths = {name: Path(path) for name, path in (files or {}).items()}
    finder = resolve or Folders([Path(folder) for folder in folders])
    recipe = _up_to(recipe, line)
    check_portable(recipe)
    if resolve is None:
        recipe = portable(recipe, paths)
    if missing := [name for name in recipe.free() if name not in paths]:
        raise MergeError(
            f"No file is bound to {', '.join(missing)}. Write `{missing[0]} = file.safetensors` in the recipe."
        )
    with ExitStack() as stack:
        sources: dict[str, FileCheckpoint] = {}
        for name in recipe.sources():
            sources[name] = FileCheckpoint(paths[name] if name in paths else finder(name), name)
            stack.callback(sources[name].close)
        placer = loras or NoLoras()
        added: dict[str, OpenFile] = {}
        for term in recipe.loras():
            if term.pin not in added:
                added[term.pin] = OpenFile(placer.find(term.name), term.name)
                stack.callback(added[term.pin].close)
        for name, digest in recipe.pins:
            source = sources.get(name) or added.get(name)
            if source and (found := source.hash(tick)) != digest:
                raise MergeError(
                    f"{name} is not the file this recipe was made with: its sha256 is {found[:16]}..., "
                    f"the recipe has {digest[:16]}.... Find the right file, or remove the pin line to merge anyway."
                )
        lines = _plan_lines(recipe, sources, own_presets, placer)
        written_out = tuple(
            lines[index].written_out if index in lines else line for index, line in enumerate(recipe.lines)
        )
        recipe = replace(recipe, lines=written_out)
        check_portable(recipe)
        yield OpenRecipe(recipe, sources, added, lines[len(written_out) - 1])


def recipe_of(path: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe a merged file carries, with its hashes, and all of the file's metadata."""
    metadata = metadata_of(path)
    if RECIPE not in metadata:
        raise MergeError(
            f"{path.name} contains no Blockwork recipe. Only files that this pack has written can be replayed."
        )
    return parse(metadata[RECIPE]), metadata


def _up_to(recipe: Recipe, line: int) -> Recipe:
    """The recipe cut off after one of its lines."""
    try:
        index = range(len(recipe.lines))[line]
    except IndexError:
        raise MergeError(
            f"The recipe has {len(recipe.lines)} lines, so there is no line {line + 1}."
        ) from None
    return replace(recipe, lines=recipe.lines[: index + 1])


def _plan_lines(
    recipe: Recipe,
    files: Mapping[str, FileCheckpoint],
    own_presets: Mapping[str, Sequence[float]] | None,
    loras: Loras,
) -> dict[int, MergedCheckpoint]:
    """The last line as a checkpoint, and those it needs, by index."""
    bound, done = dict(recipe.variables), dict[int, MergedCheckpoint]()

    def ingredient(name: str) -> Checkpoint:
        reference = LINE_REFERENCE.match(name)
        return done[int(reference.group(1)) - 1] if reference else files[bound.get(name, name)]

    for index in _needed(recipe):
        line = recipe.lines[index]
        vae = ingredient(line.vae) if line.vae else None
        models = [ingredient(name) for name in line.models]
        added: list[Added] = [
            loras.place(bound.get(term.name, term.name), term, line, models[0]) for term in line.loras
        ]
        done[index] = MergedCheckpoint(line, models, vae, own_presets, added)
    result = done[len(recipe.lines) - 1]
    for index, inner in done.items():
        if inner is not result:
            result.report.remark(f"line {index + 1}, {inner.report.text()}")
    return done


def _needed(recipe: Recipe) -> list[int]:
    """The last line and those it uses, in the order of the recipe; lines use earlier lines only."""
    needed = {len(recipe.lines) - 1}
    for index in reversed(range(len(recipe.lines))):
        if index in needed:
            line = recipe.lines[index]
            found = (LINE_REFERENCE.match(name) for name in (*line.models, line.vae))
            needed |= {int(match.group(1)) - 1 for match in found if match}
    return sorted(needed)


def _first_file(checkpoint: Checkpoint) -> FileCheckpoint:
    while not isinstance(checkpoint, FileCheckpoint):
        checkpoint = checkpoint.inner if isinstance(checkpoint, EmaSwapped) else _first_source(checkpoint)
    return checkpoint


def _first_source(checkpoint: Checkpoint) -> Checkpoint:
    assert isinstance(checkpoint, MergedCheckpoint)
    return checkpoint.sources[0]


def _is_there_already(target: Path, open_recipe: OpenRecipe, overwrite: bool, tick: Tick) -> bool:
    """Whether the target exists with this very recipe and these sources; MergeError when it must not be written."""
    if not target.exists():
        return False
    for file in open_recipe.sources().values():
        if target.samefile(file.path):
            raise MergeError(f"The output {target.name} is the source {file.name}. Choose another name.")
    if overwrite:
        return False
    try:
        there = metadata_of(target)
    except MergeError:
        there = {}  # damaged, or another kind of file
    if there and there == open_recipe.metadata(hashed=True, tick=tick):
        return True
    raise MergeError(
        f"{target.name} already exists and is not a merge of this recipe. Choose another name or allow overwriting."
    )
