"""Checks of constant inputs before a prompt is queued, for ``validate_inputs``."""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io


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
