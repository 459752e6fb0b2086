"""Recipes in ComfyUI: model names through folder_paths, progress and interruption, results live or as a file."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import comfy.lora
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from PIL import Image

from ..blocks.host import fingerprint as preset_stamps
from ..blocks.host import own_presets
from .checkpoint import Checkpoint, Entry, FileCheckpoint, TensorCheckpoint
from .compare import Comparison, compare
from .compare_plot import draw
from .errors import MergeError
from .files import Merged, merge_files, opened, recipe_of, replay
from .memory import to_tensors
from .methods import METHODS
from .naming import match_name
from .recipe import Recipe, parse, to_text
from .recipe_scan import quoted

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


def to_file(recipe: Recipe | str, name: str, *, lane: int = 0, overwrite: bool = False) -> Merged:
    """Run a recipe into a file of ComfyUI's output folder, with progress; ``lane`` counts from 1, 0 is the last."""
    return merge_files(
        recipe,
        target(name),
        resolve=find,
        lane=lane - 1,
        own_presets=own_presets(),
        overwrite=overwrite,
        on_progress=_progress(),
    )


def live(recipe: Recipe | str, *, lane: int = 0):
    """Run a recipe without a file: (MODEL, CLIP, VAE, report), loaded as core loads a checkpoint file.

    What is computed is what ``to_file`` writes, so the picture is that of the saved file. Only the result is
    in memory, the sources are streamed.
    """
    with opened(recipe, resolve=find, lane=lane - 1, own_presets=own_presets()) as kitchen:
        result, report = kitchen.result, _progress()
        total, done = sum(entry.nbytes for entry in result.entries.values()), 0

        def tick(moved: int) -> None:
            nonlocal done
            done += moved
            report(min(done, total), total)

        result.prepare(lambda moved: report(0, total))
        tensors = to_tensors(result, kitchen.order(), tick=tick)
        metadata = kitchen.metadata(hashed=False)
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
        on_progress=_progress(),
    )


def compare_live(model_a, model_b, key_map: str) -> Comparison:
    """Compare the U-Nets of two loaded models, patches included."""
    a, b = _patched("A", model_a), _patched("B", model_b)
    return compare(a, b, key_map, _ticker(a))


def compare_files(name_a: str, name_b: str, key_map: str) -> Comparison:
    """Compare two checkpoint files, piece by piece."""
    a, b = FileCheckpoint(find(name_a), name_a), FileCheckpoint(find(name_b), name_b)
    try:
        return compare(a, b, key_map, _ticker(a))
    finally:
        a.close()
        b.close()


def picture(comparison: Comparison, measure: str) -> torch.Tensor:
    """The comparison drawn in the shape of the U, as IMAGE (``1 h w 3``, 0..1)."""
    return _image(draw(comparison, measure))


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


def _patched(letter: str, model) -> TensorCheckpoint:
    """A live U-Net with its patches, each tensor computed when it is asked for."""
    patches = model.get_key_patches("diffusion_model.")
    entries = {
        key: Entry(found[0][0].dtype, tuple(found[0][0].shape))
        for key, found in patches.items()
        if found[0][0].is_floating_point()
    }

    def get(key: str) -> torch.Tensor:
        (stored, convert), *rest = patches[key]
        weight = convert(
            comfy.model_management.cast_to_device(stored, torch.device("cpu"), torch.float32, copy=True),
            inplace=True,
        )
        return comfy.lora.calculate_weight(rest, weight, key) if rest else weight

    return TensorCheckpoint(f"model {letter} ({type(model.model).__name__})", entries, get)


def _progress():
    """A progress callback that draws ComfyUI's bar and stops when the user does."""
    bar: comfy.utils.ProgressBar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return report


def _ticker(checkpoint: Checkpoint):
    total, done, report = sum(entry.nbytes for entry in checkpoint.entries.values()), 0, _progress()

    def tick(moved: int) -> None:
        nonlocal done
        done += moved
        report(min(done, total), total)

    return tick


def _image(picture: Image.Image) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, picture.width, 3).float() / 255
