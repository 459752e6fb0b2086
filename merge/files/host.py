"""Recipes in ComfyUI: model names through folder_paths, progress and interruption, results live or as a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths

from ...blocks.host import check_weights, own_presets
from ...blocks.host import fingerprint as preset_stamps
from ..elemental import check_selectors
from ..errors import MergeError
from ..lora.host import check_weights as check_lora_weights
from ..lora.host_bake import Loras
from ..methods import METHODS
from ..recipe.grammar import parse, to_text
from ..recipe.items import node_line
from ..recipe.model import LINE_REFERENCE, Recipe
from ..recipe.names import is_model_file, match_name
from .memory import to_tensors
from .replay import replay
from .run import Merged, merge_files, opened, recipe_of

KINDS = ("checkpoints", "diffusion_models", "text_encoders", "vae")
OUTPUT = {
    "text_encoders": "clip"
}  # the folder of a kind below output, where ComfyUI's loaders look, if not its name
BY_HAND = "none"


@dataclass
class _Output:
    """What the last merge to a name left there, and how often that was gone when the next queue looked."""

    path: Path
    state: tuple[int, ...] | None = None
    times_gone: int = 0


_OUTPUTS: dict[str, _Output] = {}


def model_files(*kinds: str) -> list[str]:
    """The safetensors files ComfyUI lists under these kinds of models, all kinds when none is given.

    A name that an earlier kind has too is shown as ``kind/name``.
    """
    wanted = kinds or KINDS
    return [name for name, (kind, _) in _listed().items() if kind in wanted]


def find(name: str) -> Path:
    """The file a recipe means by ``name``, in any of ComfyUI's model folders; MergeError lists what there is."""
    listed = _listed()
    kind, file = listed[match_name(name, list(listed))]
    found = folder_paths.get_full_path(kind, file)
    if found is None:
        raise MergeError(f"{name} was deleted. Refresh the page to see the files that exist.")
    return Path(found)


def kind_of(name: str) -> str:
    """The kind of model under which ComfyUI lists a file; checkpoints where it lists none of that name."""
    listed = _listed()
    try:
        return listed[match_name(name, list(listed))][0]
    except MergeError:
        return KINDS[0]


def _listed() -> dict[str, tuple[str, str]]:
    """Shown name -> kind of model, name in its folders."""
    found: dict[str, tuple[str, str]] = {}
    for kind in KINDS:
        for file in folder_paths.get_filename_list(kind):
            if is_model_file(file):
                found[file if file not in found else f"{kind}/{file}"] = (kind, file)
    return found


def target(name: str, kind: str = KINDS[0]) -> Path:
    """Where a merge called ``name`` goes: a folder below ComfyUI's output that the loaders of its kind list."""
    relative = PurePosixPath(name.strip().replace("\\", "/"))
    if not relative.name or relative.is_absolute() or ".." in relative.parts or set(":\0") & set(name):
        raise MergeError(f"Invalid output name {name[:200]!r}. Write a name such as merges/my_mix.")
    path = Path(folder_paths.get_output_directory()) / OUTPUT.get(kind, kind) / relative
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def target_of(recipe: Recipe, name: str, line: int) -> Path:
    """Where the result of a line goes: to the models of the kind that its A is."""
    first, bound = (
        recipe.lines[line - 1] if line <= len(recipe.lines) else recipe.lines[-1],
        dict(recipe.variables),
    )
    while match := LINE_REFERENCE.match(first.models[0]):
        first = recipe.lines[int(match.group(1)) - 1]
    return target(name, kind_of(bound.get(first.models[0], first.models[0])))


def node_recipe(
    output: str, models: list[str], method: str, ratios: dict[str, str], options: str, **settings: str | int
) -> Recipe:
    """The recipe of a node's fields; a VAE of ``none`` is left out."""
    chosen = {name: value for name, value in settings.items() if name != "vae" or value not in ("", BY_HAND)}
    return Recipe((node_line(output, tuple(models), method, ratios, options, **chosen),))


def check_fields(method: str, model_c: str, weights: str, second: str, options: str) -> None:
    """MergeError where the fields of a node do not fit its method, before any file is read."""
    models = ["A", "B", *([model_c] if model_c != BY_HAND else [])]
    node_recipe("output", models, method, ratio_texts(method, weights, second), options)


def check_recipe(text: str) -> None:
    """MergeError or BlockError for what can be checked before a file is read: lines, numbers, presets, selectors."""
    for line in parse(text).lines:
        for _, weights in line.ratios:
            check_weights(weights)
        check_selectors(line.elemental)
        for term in line.loras:
            check_lora_weights(term.weights)


def to_file(recipe: Recipe | str, name: str, *, line: int = 0, overwrite: bool = False) -> Merged:
    """Run a recipe into a file of ComfyUI's output folder, with progress; ``line`` counts from 1, 0 is the last."""
    recipe = parse(recipe) if isinstance(recipe, str) else recipe
    path = target_of(recipe, name, line)
    merged = merge_files(
        recipe,
        path,
        resolve=find,
        line=line - 1,
        own_presets=own_presets(),
        loras=Loras(),
        overwrite=overwrite,
        on_progress=progress(),
    )
    output_written(name, merged.path)
    return merged


def output_written(name: str, path: Path) -> None:
    """Remember what a merge wrote, for ``output_stamp``."""
    known = _OUTPUTS.setdefault(name, _Output(path))
    known.path, known.state = path, _state(path)


def output_stamp(name: str | None) -> int:
    """Changes when the file that the last merge to this name wrote is gone or changed: the merge must run again."""
    known = _OUTPUTS.get(name or "")
    if known is not None and known.state is not None and _state(known.path) != known.state:
        known.times_gone, known.state = known.times_gone + 1, None
    return known.times_gone if known else 0


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def live(recipe: Recipe | str, *, line: int = 0, disable_dynamic: bool = False):
    """Run a recipe without a file: (MODEL, CLIP, VAE, report), loaded as core loads a checkpoint file.

    What is computed is what ``to_file`` writes, so the image is that of the saved file. Only the result is
    in memory; the sources are read piece by piece.
    """
    report = progress()
    with opened(
        recipe,
        resolve=find,
        line=line - 1,
        own_presets=own_presets(),
        loras=Loras(),
        tick=lambda moved: report(0, 1),
    ) as open_recipe:
        result = open_recipe.result
        total, done = sum(entry.nbytes for entry in result.entries.values()), 0

        def tick(moved: int) -> None:
            nonlocal done
            done += moved
            report(min(done, total), total)

        result.prepare(lambda moved: report(0, total))
        tensors = to_tensors(result, open_recipe.order(), tick=tick)
        open_recipe.check_unchanged()
        metadata = open_recipe.metadata(hashed=False)
        words = result.report.text()
    loaded: Any = comfy.sd.load_state_dict_guess_config(
        tensors,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        metadata=metadata,
        disable_dynamic=disable_dynamic,
    )
    if loaded is None or loaded[0] is None:
        raise MergeError(
            "ComfyUI cannot load the result: model A is not a checkpoint or diffusion model it recognises."
        )
    model, clip, vae = loaded[:3]
    for number, thing in enumerate((model, clip, vae)):
        if thing is not None:  # core loads a model again for hooks, for compiling and for more than one GPU
            getattr(thing, "patcher", thing).cached_patcher_init = (_patchers, (recipe, line), number)
    return model, clip, vae, words


def _patchers(recipe: Recipe | str, line: int, disable_dynamic: bool = False) -> list[Any]:
    """The patchers of ``live``, from running the recipe again."""
    things = live(recipe, line=line, disable_dynamic=disable_dynamic)[:3]
    return [getattr(thing, "patcher", thing) for thing in things]


def read_recipe(checkpoint: str) -> str:
    """The recipe that a merged checkpoint carries, as text."""
    return to_text(recipe_of(find(checkpoint))[0])


def replay_file(checkpoint: str, name: str, overwrite: bool = False) -> tuple[Merged, bool, str]:
    """Run a checkpoint's own recipe again into a new file and compare the two byte for byte."""
    merged = replay(
        find(checkpoint),
        target(name, kind_of(checkpoint)),
        resolve=find,
        own_presets=own_presets(),
        loras=Loras(),
        overwrite=overwrite,
        on_progress=progress(),
    )
    output_written(name, merged[0].path)
    return merged


def ratio_texts(method: str, weights: str, second: str) -> dict[str, str]:
    """The two weight texts of a node by the names the method has for them; for each they are m_b and m_a."""
    names = METHODS[method].ratios
    if names == ("m_a", "m_b"):
        return {**({"m_a": second} if second.strip() else {}), "m_b": weights}
    if len(names) == 1:
        return {names[0]: weights}
    return {names[0]: weights, names[1]: second or "0"}


def fingerprint(recipe: str | None) -> str:
    """Changes when a source of the recipe changes on disk. Constant while the recipe is linked or cannot be read."""
    try:
        read = parse(recipe or "")
    except MergeError:
        return ""
    return stamps(read.sources(), [term.name for term in read.loras()])


def stamps(names: Sequence[str], loras: Sequence[str] = ()) -> str:
    """Place, size and time of the named files and of the user's presets, for ComfyUI's cache."""
    found = []
    for name, where in [*((name, find) for name in names), *((name, Loras().find) for name in loras)]:
        try:
            path = where(name)
            status = path.stat()
            found.append(f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}")
        except (MergeError, OSError):
            continue  # the run itself reports it
    return f"{';'.join(found)} {preset_stamps()}"


def listed_name(path: Path) -> str:
    """The name under which ComfyUI's loaders list a file that a merge has written."""
    return PurePosixPath(*path.relative_to(folder_paths.get_output_directory()).parts[1:]).as_posix()


def progress():
    """A progress callback that draws ComfyUI's bar and stops when the user does."""
    bar: comfy.utils.ProgressBar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return report
