"""Checks of constant inputs before a prompt is queued, for ``validate_inputs``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

LONGEST_NAME = 200  # bytes of a file's name, without the number and the ending that follow


def first_problem(*steps: tuple[Any, ...]) -> bool | str:
    """True, or the first error of ``(check, value, ...)`` steps; a step with a linked value (None) is left to the run."""
    for check, *values in steps:
        if any(value is None for value in values):
            continue
        try:
            check(*values)
        except ValueError as error:  # every error of the pack about a text is one
            return str(error)
    return True


def listed(node: type[io.ComfyNode], **given: Any) -> tuple[Callable[[], None]]:
    """A step that checks menus as ComfyUI does, which leaves out the inputs that ``validate_inputs`` names."""

    def check() -> None:
        options = {
            one.id: one.options for one in node.define_schema().inputs if isinstance(one, io.Combo.Input)
        }
        for name, value in given.items():
            if value is not None and value not in (options[name] or ()):
                raise ValueError(f"{value!r} is not a value of {name}. Choose another from the menu.")

    return (check,)


def check_prefix(prefix: str, folder: str | None = None) -> None:
    """ValueError unless a prefix names a file below a folder, which is ComfyUI's output folder where none is given."""
    folder = folder or folder_paths.get_output_directory()
    name = Path(prefix).name
    inside = folder_paths.is_within_directory(folder, str(Path(folder, prefix)))
    if not inside or not name or len(os.fsencode(name)) > LONGEST_NAME:
        raise ValueError(
            f"{prefix[:80]!r} is not a name for a file in the folder {Path(folder).name}. Expected are up to "
            f"{LONGEST_NAME} bytes without .., such as my_file or folder/my_file. Choose another name."
        )
