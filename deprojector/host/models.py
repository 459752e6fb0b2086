"""Deprojectors in ComfyUI: files below ``models/deprojector``, memory management, runs."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from .. import after_end, ensemble, files
from ..algebra import checked
from ..errors import DeprojectorError

FOLDER = "deprojector"
SUFFIXES = {".safetensors", ".bin", ".pt"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOURCE = "https://huggingface.co/nanashi161382/clip-text-deprojector"
NO_FILES = f"(no files: put a deprojector into models/{FOLDER}, from {SOURCE} or Train Deprojector)"


@dataclass(frozen=True)
class LoadedDeprojector:
    """A deprojector as a node's output: the module in ComfyUI's memory management, its name, and its ``fuse``."""

    name: str
    patcher: Any
    fuse: float = 0.0

    @property
    def module(self) -> Any:
        """The module; only run it through ``run``."""
        return self.patcher.model


@dataclass(frozen=True)
class Shaping:
    """How hidden states are finished: number of rows, the end row, and what follows it."""

    rows: int = 77
    exact_end: bool = False
    end_row: int = 0  # 0: the row most similar to the embedding
    noise: float = 0.0
    null: float = 0.0
    mask: float = 0.0
    seed: int = 0


def _register_folder() -> None:
    default = str(Path(folder_paths.models_dir) / FOLDER)
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    if default not in paths:
        paths = [*paths, default]
    folder_paths.folder_names_and_paths[FOLDER] = (list(paths), SUFFIXES)


_register_folder()


def names() -> list[str]:
    """The loader's options: weight files, and folders in the published form by the folder's name."""
    found = []
    for file in folder_paths.get_filename_list(FOLDER):
        path = Path(file)
        published = path.name in files.WEIGHT_FILES and len(path.parts) > 1
        found.append(path.parent.as_posix() if published else file)
    return sorted(set(found))


def options() -> list[str]:
    """``names``, or one entry that says where to get files."""
    return names() or [NO_FILES]


def find(name: str) -> Path:
    """The path of a name from ``names``; DeprojectorError says where it was looked for."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    for root in roots:
        path = root / name
        if path.exists() and folder_paths.is_within_directory(str(root), str(path)):
            return path
    given = "There are no deprojector files" if name == NO_FILES else f"There is no deprojector {name!r}"
    raise DeprojectorError(
        f"{given} below {', '.join(root.as_posix() for root in roots)}. Download one from {SOURCE} (a folder with "
        "config.json and weights), or train one with Train Deprojector."
    )


def stamp(name: str) -> tuple[float, int]:
    """What changes when the file of that name does."""
    path = find(name)
    found = [path] if path.is_file() else sorted(path.iterdir())
    return max(file.stat().st_mtime for file in found), sum(file.stat().st_size for file in found)


def load(name: str, dtype: str = "float32", fuse: float = 0.0) -> LoadedDeprojector:
    """The deprojector of that name in memory, not yet on the device."""
    return managed(files.load(find(name)).to(DTYPES[dtype]), name, fuse)


def managed(module: Any, name: str, fuse: float = 0.0) -> LoadedDeprojector:
    """The module under ComfyUI's memory management."""
    patcher = comfy.model_patcher.ModelPatcher(
        module.to(comfy.model_management.text_encoder_offload_device()),
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )
    return LoadedDeprojector(name, patcher, fuse)


def joined(
    first: LoadedDeprojector, second: LoadedDeprojector, how: str, length: int, fuse: float
) -> LoadedDeprojector:
    """Two deprojectors as one: ``ensemble``, ``merge`` (mean of the parameters) or ``concat`` at row ``length``."""
    name = f"{first.name} + {second.name}"
    modules = [first.module, second.module]
    if how == "concat":
        # copies: two memory managers must not move the same parameters
        parts = [copy.deepcopy(module).to(second.patcher.offload_device) for module in modules]
        rest = _rows_of(parts[0]) - length
        return managed(ensemble.Concat(parts[0], length, parts[1], rest), name, fuse)
    if any(isinstance(module, ensemble.Concat) for module in modules):
        raise DeprojectorError("Concatenated deprojectors can only be concatenated further, not merged.")
    if how == "merge":
        return managed(ensemble.merge_units(modules), name, fuse)
    units = [unit for module in modules for unit in ensemble.units(module)]
    return managed(ensemble.from_units(units), name, fuse)


def run(
    loaded: LoadedDeprojector,
    embeds: Tensor,
    shaping: Shaping,
    constant_rows: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Hidden states ``b rows d`` (float32, on the intermediate device) of pooled embeddings ``b d``.

    ``constant_rows`` replaces the file's start and empty-text rows by another encoder's. DeprojectorError for
    embeddings or rows of another width, and for values that are not finite.
    """
    check_width(loaded, embeds.shape[-1], "embedding")
    checked(embeds, "The embedding")
    for row in constant_rows or ():
        check_width(loaded, row.shape[-1], "CLIP's constant row")
    _onto_device(loaded)
    module = loaded.module.rebased(*constant_rows) if constant_rows else loaded.module
    rows = min(shaping.rows, _rows_of(module))
    bar = comfy.utils.ProgressBar(rows - 1)

    def on_row(_: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    with torch.no_grad():
        embeds = embeds.to(module.sos_embed)
        states = module.deproject(embeds, fuse=loaded.fuse, rows=rows, on_row=on_row)
        states = shaped(states, embeds, shaping, _null_row(loaded.module, constant_rows))
    return states.to(comfy.model_management.intermediate_device(), torch.float32)


def check_width(loaded: LoadedDeprojector, width: int, what: str) -> None:
    """DeprojectorError with both numbers unless ``what`` is as wide as the deprojector's text encoder."""
    dim = loaded.module.config.dim
    if width != dim:
        raise DeprojectorError(
            f"This {what} has {width} numbers, but the deprojector {loaded.name!r} belongs to a text encoder of "
            f"width {dim}. Use a checkpoint with such a text encoder, or a deprojector of width {width}."
        )


def _onto_device(loaded: LoadedDeprojector) -> None:
    """The whole module on its load device: every row needs all of it."""
    size = comfy.model_management.module_size(loaded.module)
    comfy.model_management.load_models_gpu([loaded.patcher], memory_required=size, force_full_load=True)
    device = loaded.patcher.load_device
    if any(tensor.device.type != device.type for tensor in loaded.module.state_dict().values()):
        loaded.module.to(
            device
        )  # core moves layers one by one under low VRAM and leaves the buffers where they were


def shaped(states: Tensor, embeds: Tensor, shaping: Shaping, null: Tensor | None) -> Tensor:
    """The hidden states finished: exact end row first, then noise, empty text and mask after the end."""
    if not (shaping.exact_end or shaping.noise or shaping.null or shaping.mask):
        return states
    end = after_end.find_end(states, embeds)
    if shaping.end_row:
        end = torch.full_like(end, shaping.end_row)
    if shaping.exact_end:
        states = after_end.with_exact_end(states, end, embeds)
    if shaping.noise:
        states = after_end.with_noise(states, end, shaping.noise, shaping.seed)
    if shaping.null:
        if null is None:
            raise DeprojectorError(
                "null_after_end needs the empty text's row, and this deprojector has none. Set constant_rows to "
                "clip."
            )
        states = after_end.with_row(states, end, shaping.null, null)
    return after_end.faded(states, end, shaping.mask) if shaping.mask else states


def _rows_of(module: Any) -> int:
    concat = isinstance(module, ensemble.Concat)
    return module.length1 + module.length2 if concat else module.config.rows


def _null_row(module: Any, constant_rows: tuple[Tensor, Tensor] | None) -> Tensor | None:
    if constant_rows:
        return constant_rows[1]
    return getattr(getattr(module, "model1", module), "null_embed", None)


def save(loaded: LoadedDeprojector, prefix: str, dtype: str) -> Path:
    """Write it as safetensors into ``models/deprojector`` under a free name; the path."""
    if isinstance(loaded.module, ensemble.Concat):
        raise DeprojectorError("A concatenation cannot be saved as one file. Save its parts one by one.")
    root = folder_paths.get_folder_paths(FOLDER)[0]
    Path(root).mkdir(parents=True, exist_ok=True)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    while (path := Path(folder) / f"{name}_{counter:05}.safetensors").exists():
        counter += 1
    return files.save(loaded.module, path, dtype=DTYPES[dtype])
