"""Names of the blocks of a Stable Diffusion U-Net, and which of them a model has.

A layout is what the 25 numbers of an MBW list address: IN00..IN11, M00, OUT00..OUT11 for SD1 and SD2,
IN00..IN08, M00, OUT00..OUT08 for SDXL. Other U-Nets are read off their keys.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

BASE = "BASE"  # everything that is merged but stands in no U-Net block: text encoder, embeddings, ...
VAE = "VAE"
MIDDLE = "M00"

_UNET_KEY = re.compile(r"^(?:model\.)?diffusion_model\.(input_blocks|middle_block|output_blocks)\.(\d+)\.")


class BlockError(ValueError):
    """A block name, weight list or preset that makes no sense; the message quotes it and says what would."""


@dataclass(frozen=True)
class Layout:
    """The blocks of one kind of U-Net: ``Layout("sd1", 12, True, 12).blocks[12] == "M00"``."""

    name: str
    inputs: int
    middle: bool
    outputs: int

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Block names in the order of an MBW list."""
        down = [f"IN{number:02}" for number in range(self.inputs)]
        up = [f"OUT{number:02}" for number in range(self.outputs)]
        return (*down, *([MIDDLE] if self.middle else []), *up)

    @property
    def last_output(self) -> str:
        """The block that MBW counts the U-Net's final ``out.`` layers to."""
        return f"OUT{self.outputs - 1:02}"


SD1 = Layout("sd1", 12, True, 12)  # SD2 and the SDXL refiner have the same 25
SDXL = Layout("sdxl", 9, True, 9)
LAYOUTS = {layout.name: layout for layout in (SD1, SDXL)}


def layout_of(keys: Iterable[str]) -> Layout:
    """The layout of a model, read off its state-dict keys (checkpoint's or ComfyUI's).

    Raises BlockError when there is no input_blocks/output_blocks U-Net in them (a transformer model, say).
    """
    found: dict[str, int] = {}
    for key in keys:
        if match := _UNET_KEY.match(key):
            part, number = match.group(1), int(match.group(2))
            found[part] = max(found.get(part, -1), number)
    if "input_blocks" not in found or "output_blocks" not in found:
        raise BlockError(
            "this model has no input_blocks/output_blocks U-Net; block weights work on "
            "SD1, SD2, SDXL and their relatives, not on transformer models such as SD3 or Flux"
        )
    counts = (found["input_blocks"] + 1, "middle_block" in found, found["output_blocks"] + 1)
    for known in LAYOUTS.values():
        if counts == (known.inputs, known.middle, known.outputs):
            return known
    inputs, middle, outputs = counts
    return Layout(f"unet-{inputs}-{int(middle)}-{outputs}", inputs, middle, outputs)


def as_layout(layout: "str | Layout") -> Layout:
    """A Layout by name (``sd1``, ``sd2``, ``sdxl``), or the Layout itself."""
    if isinstance(layout, Layout):
        return layout
    known = {**LAYOUTS, "sd2": SD1}
    if layout not in known:
        raise BlockError(f"unknown layout {layout!r}; known are {', '.join(known)}")
    return known[layout]
