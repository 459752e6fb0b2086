"""The ways in which a text names blocks: ``IN04``, ``double_3``, ``transformer_blocks.7``, ``D00-D07``, ``S``, ``ALL``.

======================================  =========================================================
``IN04``  ``in_4``  ``MID``  ``D03``      a block by letter and number
``D00-D07``  ``D00-07``                 a range, in the order of the layout
``D``  ``NR``  ``ALL``                    all blocks of a stack (transformers); all blocks
``context_refiner``  ``double_blocks``    the same by ComfyUI's own name, of any model
``double_3``  ``DOUBLE03``  ``single_0``  names of model-mixer and of LoRA tools, counted from 0
``layer_5``  ``block_5``                  the main stack of a model with one
``double_blocks.3``  ``down_blocks.1.5``  ComfyUI's own name, of any model
``BASE``  ``IN``  ``TXT``  ``FINAL_LAYER``  what is outside the blocks
======================================  =========================================================
"""

import re

from .names import (
    BASE,
    CLIP,
    IN,
    LABEL_EMB,
    MIDDLE,
    OUT,
    T5,
    TIME_EMBED,
    TXT,
    VAE,
    BlockError,
    Layout,
    Stack,
)
from .stacks import place_of

APART = (BASE, VAE, CLIP, TIME_EMBED, LABEL_EMB, OUT)
_MIDDLES = ("MID", MIDDLE, "M_00", "M0", "UNET_MID")
_NUMBERED = re.compile(r"([A-Z][A-Z_]*?)_?([0-9]{1,3})")
_ALIASES = {"DOUBLE": "D", "SINGLE": "S", "JOINT": "J", "INPUT": "IN", "OUTPUT": "OUT"}
_MAIN = ("LAYER", "BLOCK")
_LONGEST = 100  # characters of a name


def block_names(text: str, layout: Layout) -> list[str]:
    """The blocks that a name or a range means in this layout; BlockError lists what there is otherwise."""
    if len(text) > 2 * _LONGEST:
        raise BlockError(f"A block name of {len(text)} characters was given. {_available(layout)}")
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        if first.upper() == "ALL" and layout.blocks:
            return list(layout.blocks)
        stack = _whole_stack(first.upper(), layout)
        return list(stack.blocks) if stack else [_canonical(first, layout)]
    start = _canonical(first, layout)
    stack = layout.stack_of(start)
    if stack and last.isascii() and last.isdecimal() and len(last) <= 3:  # D00-07
        last = f"{stack.letter}{int(last):02}"
    end = _canonical(last, layout)
    if start not in layout.index or end not in layout.index:
        raise BlockError(f"{text!r} is not a range of blocks. {_available(layout)}")
    low, high = layout.index[start], layout.index[end]
    if low > high:
        raise BlockError(f"The range {text!r} runs backwards. Write {end}-{start}.")
    return list(layout.blocks[low : high + 1])


def is_block_label(label: str, layout: Layout) -> bool:
    """Whether a label before a colon is a block, a range or a name outside the blocks, in any layout."""
    if not label or len(label) > 2 * _LONGEST:
        return False
    ends = [end.strip().upper() for end in label.split("-")]
    letters = {*(stack.letter for stack in layout.stacks), "IN", "OUT", "D", "S", "J", "B"}
    apart = {*APART, *_MIDDLES, *layout.apart, T5, IN, TXT, "ALL"}

    def is_block(end: str) -> bool:
        found = _NUMBERED.fullmatch(end)
        return end in apart | letters or bool(
            found and (found.group(1) in letters or found.group(1) in _ALIASES)
        )

    return all(map(is_block, ends))


def _whole_stack(upper: str, layout: Layout) -> Stack | None:
    if upper in layout.apart:
        return None
    found = {stack.title.upper(): stack for stack in layout.stacks}
    if not layout.is_unet:  # IN and OUT of a U-Net are layers outside its blocks for some key maps
        found |= {stack.letter: stack for stack in layout.stacks}
    return found.get(upper.rstrip("."))


def _canonical(name: str, layout: Layout) -> str:
    upper = name.upper().rstrip(".")
    block = upper if upper in layout.index else _numbered(upper, layout) or _own_name(name, layout)
    if block in layout.index:
        return block
    if upper in (layout.apart or APART) or upper in (BASE, VAE, CLIP):
        return upper
    raise BlockError(f"Unknown block {name[:_LONGEST]!r} for {layout.name}. {_available(layout)}")


def _numbered(upper: str, layout: Layout) -> str:
    """The block of a letter, or of a word for it, and a number; empty where it is not of that form."""
    if upper in _MIDDLES:
        return MIDDLE
    match = _NUMBERED.fullmatch(upper)
    if match is None:
        return ""
    word, number = match.group(1), int(match.group(2))
    letters = {stack.letter: stack for stack in layout.stacks}
    letter = _ALIASES.get(word, word)
    if word in _MAIN:
        only = word if len(letters) != 1 else layout.stacks[0].letter
        letter = next((main for main in ("B", "J") if main in letters), only)
    elif word == "IN" and "J" in letters:  # model-mixer: the joint blocks of SD3 are IN00-IN23
        letter = "J"
    stack = letters.get(letter) or next((s for s in layout.stacks if s.title.upper() == word), None)
    return f"{stack.letter}{number:02}" if stack else ""


def _own_name(name: str, layout: Layout) -> str:
    """The block of ComfyUI's own name, ``double_blocks.3``; empty where it is not one."""
    name = name.rstrip(".")
    place = place_of(f"{name}.x", layout.titles)
    if place is None:
        return ""
    stack, number = place
    own = name.removeprefix(stack.title).removeprefix(".").split(".")
    whole = len(own) == (2 if stack.levels else 1) and name.isascii() and all(map(str.isdecimal, own))
    return stack.blocks[number] if whole else ""


def _available(layout: Layout) -> str:
    blocks = f"Blocks of this model: {layout.spans()}." if layout.blocks else "This model has no blocks."
    return f"{blocks} Other names: {', '.join(layout.apart or APART)}."
