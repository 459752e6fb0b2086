"""LoRA files: read through core and checked, and written below ComfyUI's output folder."""

from pathlib import Path
from weakref import WeakValueDictionary

import comfy.lora_convert
import comfy.utils
import folder_paths
import safetensors.torch
import torch

from ..errors import MergeError
from ..files.atomic import appearing, check_target

FOLDER = "loras"


class LoraFile:
    """A LoRA file as core reads it: tensors by name, and metadata. Kept alive by the models that use it."""

    def __init__(self, path: Path):
        self.name = path.name
        try:
            tensors, self.metadata = comfy.utils.load_torch_file(
                str(path), safe_load=True, return_metadata=True
            )
            self.original = {
                key: tensor for key, tensor in tensors.items() if isinstance(tensor, torch.Tensor)
            }
            self.tensors: dict[str, torch.Tensor] = comfy.lora_convert.convert_lora(self.original)
        except Exception as error:  # core's readers and converters raise whatever the bytes lead to
            raise unreadable(self.name, error) from error
        for name, tensor in self.tensors.items():
            if not finite(tensor):
                raise MergeError(
                    f"{self.name} holds NaN or infinity, first in {name}. A LoRA must have finite numbers. "
                    "Download it again, or use another LoRA."
                )


def unreadable(name: str, error: Exception) -> MergeError:
    """The error for a LoRA file that core cannot read."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return MergeError(
        f"{name} cannot be read as a LoRA ({type(error).__name__}: {reason}). A complete LoRA file is expected. "
        "Download it again, or use another LoRA."
    )


def finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, in any dtype."""
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


_FILES: WeakValueDictionary[tuple[str, int, int], LoraFile] = WeakValueDictionary()


def stamp(name: str) -> tuple[str, int, int]:
    """Path, size and time of the LoRA file of that name."""
    found = folder_paths.get_full_path(FOLDER, name)
    if found is None:
        raise MergeError(
            f"There is no LoRA file {name!r}. A file of the folder {FOLDER} is expected. Choose one from the list."
        )
    path = Path(found)
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def open_lora(name: str) -> LoraFile:
    """The LoRA file of that name; the same object while a model still uses it and the file is unchanged."""
    mark = stamp(name)
    found = _FILES.get(mark)
    if found is None:
        found = _FILES[mark] = LoraFile(Path(mark[0]))
    return found


def write(tensors: dict[str, torch.Tensor], prefix: str, metadata: dict[str, str]) -> Path:
    """Write a LoRA below ComfyUI's output folder, with the next free number; its path.

    MergeError for a name that no file there can have, and for numbers that are not finite or too large for their dtype.
    """
    for name, tensor in tensors.items():
        if not finite(tensor):
            raise MergeError(
                f"{name} has numbers that are not finite or too large for {tensor.dtype}. Finite numbers are expected. "
                "Choose the dtype bf16 or fp32, or smaller weights."
            )
    root = folder_paths.get_output_directory()
    stem = Path(prefix).name
    if "\0" in prefix or not stem or not folder_paths.is_within_directory(root, str(Path(root, prefix))):
        raise MergeError(
            f"{prefix!r} is not a name for a file below the output folder. A name such as loras/by_block is expected. "
            "Change filename_prefix."
        )
    check_target(Path(root, prefix + "_00001_.safetensors"))
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    path = Path(folder) / f"{stem}_{counter:05}_.safetensors"
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    with appearing(path, len(data), replace=False) as target:
        target.put(data, 0)
    return path
