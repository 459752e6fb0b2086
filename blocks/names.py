"""Names of the blocks of a diffusion model, and which of them a model has.

A *stack* is a row of numbered modules, such as ``double_blocks.0 .. double_blocks.18``. The blocks of a model are
the members of its stacks, each named by the stack's letter and its number: ``IN00``-``IN11``, ``M00``,
``OUT00``-``OUT11`` for SD1; ``D00``-``D18``, ``S00``-``S37`` for Flux. A layout is the list of stacks, in the
order in which the model runs them. ``blocks.stacks`` reads the layout of any model off its keys.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

BASE = "BASE"  # everything that is merged but is in no block: text encoder, embedders, ...
VAE = "VAE"
CLIP, T5 = "CLIP", "T5"
IN, TXT, OUT = (
    "IN",
    "TXT",
    "OUT",
)  # outside the stacks of a transformer: embedders, text projections, last layers
TIME_EMBED, LABEL_EMB = "TIME_EMBED", "LABEL_EMB"
MIDDLE = "M00"
INPUT_BLOCKS, MIDDLE_BLOCK, OUTPUT_BLOCKS = "input_blocks", "middle_block", "output_blocks"

_UNET_NAME = re.compile(r"unet-([0-9]{1,3})-([01])-([0-9]{1,3})")
_STACKS_NAME = re.compile(r"([A-Z](?:[A-Z0-9_]*[A-Z_])?)([0-9]{1,3})")


class BlockError(ValueError):
    """A block name, weight list or preset that cannot be used; the message quotes it and says what is expected."""


@dataclass(frozen=True)
class Stack:
    """Numbered modules of one kind: ``Stack("D", "double_blocks", 19).blocks[3] == "D03"``.

    ``levels`` is for stacks in stacks (``down_blocks.1.5``): the number of members of each level.
    """

    letter: str
    title: str  # the path of the modules without the number
    count: int
    levels: tuple[int, ...] = ()

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The block names of the stack, in order."""
        return tuple(f"{self.letter}{number:02}" for number in range(self.count))


@dataclass(frozen=True)
class Layout:
    """The blocks of one kind of model: ``as_layout("sd1").blocks[12] == "M00"``."""

    name: str
    stacks: tuple[Stack, ...]
    apart: tuple[str, ...] = field(default=(), compare=False)  # names outside the stacks that this model has

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """All block names in the order of a weight list."""
        return tuple(block for stack in self.stacks for block in stack.blocks)

    @cached_property
    def index(self) -> dict[str, int]:
        """Block name -> place in ``blocks``."""
        return {block: place for place, block in enumerate(self.blocks)}

    @cached_property
    def titles(self) -> dict[str, Stack]:
        """Module path of a stack -> the stack."""
        return {stack.title: stack for stack in self.stacks}

    @property
    def is_unet(self) -> bool:
        """Whether this is a U-Net with input and output blocks."""
        return OUTPUT_BLOCKS in self.titles

    @property
    def inputs(self) -> int:
        """The number of input blocks of a U-Net; 0 for other models."""
        return self._count(INPUT_BLOCKS)

    @property
    def middle(self) -> bool:
        """Whether a U-Net has a middle block."""
        return MIDDLE_BLOCK in self.titles

    @property
    def outputs(self) -> int:
        """The number of output blocks of a U-Net; 0 for other models."""
        return self._count(OUTPUT_BLOCKS)

    @property
    def last_output(self) -> str:
        """The block that MBW counts a U-Net's final ``out.`` layers to."""
        return f"OUT{self.outputs - 1:02}"

    def stack_of(self, block: str) -> Stack | None:
        """The stack that a block is in."""
        return next((stack for stack in self.stacks if block in stack.blocks), None)

    def spans(self) -> str:
        """The blocks in short: ``IN00-IN11, M00, OUT00-OUT11``."""
        ends = (dict.fromkeys((stack.blocks[0], stack.blocks[-1])) for stack in self.stacks if stack.count)
        return ", ".join("-".join(pair) for pair in ends)

    def describe(self) -> str:
        """The layout for messages: ``sd1 (IN00-IN11, M00, OUT00-OUT11)``."""
        return f"{self.name} ({self.spans()})" if self.stacks else self.name

    def as_json(self) -> dict[str, Any]:
        """The layout for the browser: ``{name, stacks: [{letter, title, blocks}], apart}``, with the levels of nested stacks."""
        stacks = [
            {"letter": s.letter, "title": s.title, "blocks": list(s.blocks)}
            | ({"levels": list(s.levels)} if s.levels else {})
            for s in self.stacks
        ]
        return {"name": self.name, "stacks": stacks, "apart": list(self.apart)}

    def _count(self, title: str) -> int:
        return self.titles[title].count if title in self.titles else 0


def unet_layout(name: str, inputs: int, middle: bool, outputs: int) -> Layout:
    """The layout of a U-Net with these numbers of blocks."""
    stacks = (
        Stack("IN", INPUT_BLOCKS, inputs),
        *([Stack("M", MIDDLE_BLOCK, 1)] if middle else []),
        Stack("OUT", OUTPUT_BLOCKS, outputs),
    )
    return Layout(name, stacks, (BASE, VAE, CLIP, TIME_EMBED, LABEL_EMB, OUT))


def _transformer(name: str, *stacks: tuple[str, str, int]) -> Layout:
    return Layout(name, tuple(Stack(*stack) for stack in stacks), (BASE, VAE, CLIP, T5, IN, TXT, OUT))


NO_LAYOUT = Layout("any", ())  # a model without blocks
SD1 = unet_layout("sd1", 12, True, 12)  # SD2 and the SDXL refiner have the same 25
SDXL = unet_layout("sdxl", 9, True, 9)
_FLUX_STACKS = ("double_blocks", "single_blocks")

_SHARED = ("wan_14b", "wan_1_3b")  # other models have these stacks too: HunyuanDiT, CogVideoX
# Layouts that a text or a menu can name. Models are never looked up here: their layout is read off their keys,
# and has one of these names when its stacks are the same.
LAYOUTS = {
    layout.name: layout
    for layout in (
        SD1,
        SDXL,
        _transformer("sd3", ("J", "joint_blocks", 24)),
        _transformer("sd35_large", ("J", "joint_blocks", 38)),
        *(
            _transformer(name, *zip("DS", _FLUX_STACKS, counts, strict=True))
            for name, counts in {
                "flux": (19, 38),
                "flux2": (8, 48),
                "klein_4b": (5, 20),
                "klein_9b": (8, 24),
            }.items()
        ),
        _transformer(
            "chroma",
            ("G", "distilled_guidance_layer.layers", 5),
            ("D", "double_blocks", 19),
            ("S", "single_blocks", 38),
        ),
        _transformer("qwen_image", ("B", "transformer_blocks", 60)),
        _transformer(
            "z_image", ("CR", "context_refiner", 2), ("NR", "noise_refiner", 2), ("B", "layers", 30)
        ),
        _transformer("anima", ("A", "llm_adapter.blocks", 6), ("B", "blocks", 28)),
        _transformer(
            "krea2",
            ("TL", "txtfusion.layerwise_blocks", 2),
            ("TR", "txtfusion.refiner_blocks", 2),
            ("B", "blocks", 28),
        ),
        _transformer("wan_14b", ("B", "blocks", 40)),
        _transformer("wan_1_3b", ("B", "blocks", 30)),
        _transformer("ltxv", ("B", "transformer_blocks", 28)),
        _transformer("lumina2", ("CR", "context_refiner", 2), ("NR", "noise_refiner", 2), ("B", "layers", 26)),
        _transformer(
            "hunyuan_video",
            ("TR", "txt_in.individual_token_refiner.blocks", 2),
            ("D", "double_blocks", 20),
            ("S", "single_blocks", 40),
        ),
    )
}  # fmt: skip


def named(stacks: tuple[Stack, ...], apart: tuple[str, ...] = ()) -> Layout:
    """A layout of these stacks, under the name of ``LAYOUTS`` where one has the same, else by counts: ``D5-S20``."""
    for layout in LAYOUTS.values():
        if layout.stacks == stacks and layout.name not in _SHARED:
            return Layout(layout.name, stacks, apart or layout.apart)
    counts = {stack.title: stack.count for stack in stacks}
    if {INPUT_BLOCKS, OUTPUT_BLOCKS} <= counts.keys():
        middle = int(MIDDLE_BLOCK in counts)
        return Layout(f"unet-{counts[INPUT_BLOCKS]}-{middle}-{counts[OUTPUT_BLOCKS]}", stacks, apart)
    return Layout("-".join(f"{stack.letter}{stack.count}" for stack in stacks) or "any", stacks, apart)


def layout_of(keys: Iterable[str]) -> Layout:
    """The layout of a diffusion model, read off its state-dict keys (checkpoint's or ComfyUI's).

    Raises BlockError when no numbered blocks are among them.
    """
    from .stacks import read_layout

    return read_layout(keys)


def as_layout(layout: "str | Layout") -> Layout:
    """A Layout by name (``sd1``, ``flux``, or one that ``named`` made), or the Layout itself."""
    if isinstance(layout, Layout):
        return layout
    known = {**LAYOUTS, "sd2": SD1, NO_LAYOUT.name: NO_LAYOUT}
    if layout in known:
        return known[layout]
    if match := _UNET_NAME.fullmatch(layout):
        return unet_layout(layout, int(match.group(1)), match.group(2) == "1", int(match.group(3)))
    parts = [_STACKS_NAME.fullmatch(part) for part in layout.split("-")]
    if all(parts):
        stacks = tuple(Stack(m.group(1), m.group(1).lower(), int(m.group(2))) for m in parts if m)
        return Layout(layout, stacks, (BASE, VAE, CLIP, T5, IN, TXT, OUT))
    raise BlockError(f"Unknown layout {layout[:80]!r}. Available: {', '.join(known)}.")
