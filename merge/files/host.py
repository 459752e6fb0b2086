"""Recipes in ComfyUI: model names through folder_paths, progress and interruption, results live or as a file."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths

from ...blocks.host import fingerprint as preset_stamps
from ...blocks.host import own_presets
from ..errors import MergeError
from ..methods import METHODS
from ..recipe.grammar import Recipe, parse, to_text
from ..recipe.names import match_name
from ..recipe.scanner import quoted
from .memory import to_tensors
from .replay import replay
from .run import Merged, merge_files, opened, recipe_of

KINDS = ("checkpoints", "diffusion_models", "text_encoders", "vae")
BY_HAND = "none"


def model_files(kind: str = "checkpoints") -> list[str]:
    """The safetensors files ComfyUI lists under a kind of model."""
    return [name for name in folder_paths.get_filename_list(kind) if name.endswith(".safetensors")]


def find(name: str) -> Path:
    """The file a recipe means by ``name``, in any of ComfyUI's model folders; MergeError lists what there is."""
    where = {file: kind for kind in reversed(KINDS) for file in model_files(kind)}
    file = match_name(name, list(where))
    return Path(folder_paths.get_full_path_or_raise(where[file], file))


def target(name: str) -> Path:
    """Where a merge called ``name`` goes: ComfyUI's output/checkpoints, which its loaders list."""
    relative = PurePosixPath(name.strip().replace("\\", "/"))
    if not relative.name or relative.is_absolute() or ".." in relative.parts or ":" in name:
        raise MergeError(
            f"{name!r} is no file name below the output folder; write a name such as merges/my_mix"
        )
    path = Path(folder_paths.get_output_directory()) / "checkpoints" / relative
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def recipe_line(
    output: str, models: list[str], method: str, ratios: dict[str, str], options: str, **settings: str | int
) -> str:
    """One line of a recipe from the widgets of a node; unset settings are left out."""
    items = [f"{quoted(output)} = {' + '.join(quoted(model) for model in models)}", f"method={method}"]
    items += [f"{name}=[{' '.join(text.split())}]" for name, text in ratios.items()]
    items += [options.strip().strip(",")] if options.strip(" ,\n") else []
    for name, value in settings.items():
        if value not in ("", 0, BY_HAND):
            items.append(f"{name}={quoted(str(value))}")
    return ", ".join(items)


def to_file(recipe: Recipe | str, name: str, *, line: int = 0, overwrite: bool = False) -> Merged:
    """Run a recipe into a file of ComfyUI's output folder, with progress; ``line`` counts from 1, 0 is the last."""
    return merge_files(
        recipe,
        target(name),
        resolve=find,
        line=line - 1,
        own_presets=own_presets(),
        overwrite=overwrite,
        on_progress=progress(),
    )


def live(recipe: Recipe | str, *, line: int = 0):
    """Run a recipe without a file: (MODEL, CLIP, VAE, report), loaded as core loads a checkpoint file.

    What is computed is what ``to_file`` writes, so the picture is that of the saved file. Only the result is
    in memory, the sources are streamed.
    """
    with opened(recipe, resolve=find, line=line - 1, own_presets=own_presets()) as open_recipe:
        result, report = open_recipe.result, progress()
        total, done = sum(entry.nbytes for entry in result.entries.values()), 0

        def tick(moved: int) -> None:
            nonlocal done
            done += moved
            report(min(done, total), total)

        result.prepare(lambda moved: report(0, total))
        tensors = to_tensors(result, open_recipe.order(), tick=tick)
        metadata = open_recipe.metadata(hashed=False)
        words = result.report.text()
    loaded = comfy.sd.load_state_dict_guess_config(
        tensors, embedding_directory=folder_paths.get_folder_paths("embeddings"), metadata=metadata
    )
    if loaded is None or loaded[0] is None:
        raise MergeError("ComfyUI does not recognise the result as a checkpoint: its A has no U-Net it knows")
    model, clip, vae = loaded[:3]
    return model, clip, vae, words


def read_recipe(checkpoint: str) -> str:
    """The recipe that a merged checkpoint carries, as text."""
    return to_text(recipe_of(find(checkpoint))[0])


def replay_file(checkpoint: str, name: str, overwrite: bool = False) -> tuple[Merged, bool, str]:
    """Run a checkpoint's own recipe again into a new file and compare the two byte for byte."""
    return replay(
        find(checkpoint),
        target(name),
        resolve=find,
        own_presets=own_presets(),
        overwrite=overwrite,
        on_progress=progress(),
    )


def ratio_texts(method: str, weights: str, second: str) -> dict[str, str]:
    """The two weight texts of a node by the names the method has for them; for each they are m_b and m_a."""
    names = METHODS[method].ratios
    if names == ("m_a", "m_b"):
        return {**({"m_a": second} if second.strip() else {}), "m_b": weights}
    if len(names) == 1:
        return {names[0]: weights}
    return {names[0]: weights, names[1]: second or "0"}


def fingerprint(recipe: str | None) -> str:
    """Changes when a source of the recipe changes on disk; constant while the recipe is linked or unreadable."""
    try:
        return stamps(parse(recipe or "").sources())
    except MergeError:
        return ""


def stamps(names: Sequence[str]) -> str:
    """Place, size and time of the named model files and of the user's presets, for ComfyUI's cache."""
    found = []
    for name in names:
        try:
            path = find(name)
            found.append(f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}")
        except (MergeError, OSError):
            continue  # the run itself will say so
    return f"{';'.join(found)} {preset_stamps()}"


def listed_name(path: Path) -> str:
    """The name under which ComfyUI's loaders list a file of output/checkpoints."""
    return path.relative_to(Path(folder_paths.get_output_directory()) / "checkpoints").as_posix()


def progress():
    """A progress callback that draws ComfyUI's bar and stops when the user does."""
    bar: comfy.utils.ProgressBar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return report
