"""The layout of a model, read off its state-dict keys: there is no table of models.

A stack is a row ``NAME.0 .. NAME.n-1`` of modules that hold modules of their own, with at least one of them in
common. The known names of stacks give the letters of the community; other stacks get a prefix from their name.
So a model that ComfyUI learns tomorrow has blocks the same day. Source of the names: ComfyUI's model classes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .keys import PREFIXES, UNET
from .names import (
    BASE,
    CLIP,
    IN,
    INPUT_BLOCKS,
    MIDDLE_BLOCK,
    OUT,
    OUTPUT_BLOCKS,
    T5,
    TXT,
    VAE,
    BlockError,
    Layout,
    Stack,
    named,
    unet_layout,
)
from .outside import own_name, role

MOST = 1000  # blocks of one stack

# Module path -> letter, in the order in which models run them; ties are broken by path.
KNOWN = {
    "distilled_guidance_layer.layers": "G",
    "llm_adapter.blocks": "A",
    "txtfusion.layerwise_blocks": "TL",
    "txtfusion.refiner_blocks": "TR",
    "token_refiner.blocks": "TR",
    "txt_in.individual_token_refiner.blocks": "TR",
    "text_transformer_blocks": "T",
    "visual.blocks": "V",
    "video_embeddings_connector.transformer_1d_blocks": "VC",
    "audio_embeddings_connector.transformer_1d_blocks": "AC",
    "context_refiner": "CR",
    "noise_refiner": "NR",
    "ref_image_refiner": "RR",
    "down_blocks": "DN",
    "up_blocks": "UP",
    "joint_blocks": "J",
    "double_blocks": "D",
    "double_layers": "D",
    "double_stream_blocks": "D",
    "double_stream_layers": "D",
    "single_blocks": "S",
    "single_layers": "S",
    "single_stream_blocks": "S",
    "single_stream_layers": "S",
    "blocks": "B",
    "blocks.block": "B",
    "layers": "B",
    "transformer_blocks": "B",
    "visual_transformer_blocks": "B",
    "patch_blocks": "B",
    "language_model.layers": "B",
    "transformer.layers": "B",
    "decoder.layers": "B",
    "nerf_blocks": "N",
    "pixel_blocks": "P",
    "dec_net.res_blocks": "P",
}
_ORDER = {title: place for place, title in enumerate(KNOWN)}
_LETTERS = frozenset((*KNOWN.values(), BASE, VAE, CLIP, T5, IN, TXT, OUT, "M", "MID", "ALL"))
_ROW = re.compile(r"(?:^|[._])(?:blocks?|layers?)$")
_GENERIC = re.compile(r"_?(?:transformer_)?(?:blocks?|layers?)$")


@dataclass
class _Row:
    """What is below ``NAME.0``, ``NAME.1``, ...: per number, the modules that hold parameters."""

    members: dict[int, set[str]] = field(default_factory=dict)
    plain: set[int] = field(default_factory=set)  # numbers that are themselves layers with a weight


def read_layout(keys: Iterable[str]) -> Layout:
    """The layout of the diffusion model in ``keys``; BlockError when it has no numbered blocks."""
    rows: dict[str, _Row] = {}
    outside: dict[str, None] = {}
    unet: dict[str, int] = {}
    for key in keys:
        inside = diffusion_key(key)
        if inside is None:
            continue
        place = _numbered(inside)
        if place is None:
            outside.setdefault(inside)
            continue
        title, number, rest = place
        if title in (INPUT_BLOCKS, MIDDLE_BLOCK, OUTPUT_BLOCKS):
            unet[title] = max(unet.get(title, -1), number)
            continue
        row = rows.setdefault(title, _Row())
        module, dot, _ = rest.rpartition(".")
        if dot:
            row.members.setdefault(number, set()).add(module)
        else:
            row.plain.add(number)
        outside.setdefault(inside)
    if INPUT_BLOCKS in unet and OUTPUT_BLOCKS in unet:
        return _unet(unet)
    stacks = _lettered([stack for title in sorted(rows) if (stack := _stack(title, rows[title]))])
    if not stacks:
        raise BlockError(
            "This model has no numbered blocks, so it has no block weights. Use one number for the whole model."
        )
    titles = {stack.title for stack in stacks}
    return named(stacks, _apart([key for key in outside if not _in_stacks(key, titles)]))


def diffusion_key(key: str) -> str | None:
    """The key below the diffusion model, or None for other parts of a checkpoint."""
    for prefix in PREFIXES[UNET]:
        if key.startswith(prefix):
            return key[len(prefix) :]
    return None


def place_of(inside: str, titles: "dict[str, Stack]") -> tuple[Stack, int] | None:
    """The stack and the number of a key below the diffusion model, or None when it is outside the stacks."""
    place = _numbered(inside)
    if place is None or place[0] not in titles:
        return None
    title, number, rest = place
    stack = titles[title]
    if title == MIDDLE_BLOCK:
        return stack, 0
    if stack.levels:
        inner = rest.partition(".")[0]
        if not inner.isdecimal() or number >= len(stack.levels) or int(inner) >= stack.levels[number]:
            return None
        number = sum(stack.levels[:number]) + int(inner)
    return (stack, number) if number < stack.count else None


def _numbered(inside: str) -> tuple[str, int, str] | None:
    """``(NAME, number, rest)`` at the first number of a path: ``double_blocks``, 3, ``img_attn.qkv.weight``."""
    parts = inside.split(".")
    for place in range(1, len(parts) - 1):
        part = parts[place]
        if part.isdecimal() and part.isascii() and len(part) <= 6:
            return ".".join(parts[:place]), int(part), ".".join(parts[place + 1 :])
        stem = parts[place - 1].removesuffix("s")  # Cosmos 1: blocks.block0, blocks.block1, ...
        number = part.removeprefix(stem)
        if stem and number != part and number.isdecimal() and number.isascii() and len(number) <= 6:
            return ".".join([*parts[:place], stem]), int(number), ".".join(parts[place + 1 :])
    return None


def _unet(found: dict[str, int]) -> Layout:
    for title, last in found.items():
        if last >= MOST:
            raise BlockError(
                f"{title}.{last} is beyond the limit of {MOST} blocks. The file is not a usable model."
            )
    layout = unet_layout("", found[INPUT_BLOCKS] + 1, MIDDLE_BLOCK in found, found[OUTPUT_BLOCKS] + 1)
    return named(layout.stacks, layout.apart)


def _stack(title: str, row: _Row) -> Stack | None:
    """The stack that a row of numbers is, without its letter, or None when it is none."""
    known = title in KNOWN
    numbers = sorted(row.members.keys() | row.plain)
    whole = numbers == list(range(len(numbers))) and len(numbers) <= MOST
    if levels := _levels(row) if whole and not row.plain else ():
        return Stack("", title, sum(levels), levels)
    modules = [
        {name for name in found if not name.replace(".", "").isdecimal()} for found in row.members.values()
    ]
    if row.plain - row.members.keys() or not modules or not all(modules):
        return None
    if not known:
        enough = (
            1 if _ROW.search(title) else 2
        )  # caption_projection.N.linear is a row of layers, not of blocks
        if len(numbers) < 2 or min(map(len, modules)) < enough or not set.intersection(*modules):
            return None
    if not whole:
        if not known:
            return None
        missing = next(number for number in range(len(numbers) + 1) if number not in numbers)
        raise BlockError(
            f"{title}.{numbers[-1]} is there, but {title}.{missing} is missing. "
            "The file is not a complete model; use a complete one."
        )
    return Stack("", title, len(numbers))


def _levels(row: _Row) -> tuple[int, ...]:
    """The members of each level of a row of rows (Stable Cascade's ``down_blocks.1.5``), or nothing."""
    counts = []
    for number in range(len(row.members)):
        inner = {name.partition(".") for name in row.members[number]}
        numbers = {first for first, _, _ in inner}
        if not all(first.isdecimal() for first in numbers):
            return ()
        if {int(first) for first in numbers} != set(range(len(numbers))):
            return ()
        if {first for first, _, rest in inner if not rest.replace(".", "").isdecimal() and rest} != numbers:
            return ()
        counts.append(len(numbers))
    return tuple(counts) if len(set(counts)) > 1 else ()  # equal counts: blocks that are sequences of layers


def _lettered(stacks: Sequence[Stack]) -> tuple[Stack, ...]:
    """The stacks with their letters, in the order of a weight list."""
    taken: set[str] = set()
    found = []
    for stack in sorted(stacks, key=lambda s: (_ORDER.get(s.title, len(_ORDER)), s.title)):
        letter = KNOWN.get(stack.title, "")
        if not letter or letter in taken:
            letter = _derived(stack.title, taken)
        taken.add(letter)
        found.append(Stack(letter, stack.title, stack.count, stack.levels))
    return tuple(found)


def _derived(title: str, taken: set[str]) -> str:
    """A prefix from the name of an unknown stack: ``QUUX`` for ``quux_blocks``."""
    path = title.split(".")
    short = _GENERIC.sub("", path[-1]) or (path[-2] if len(path) > 1 else path[-1])
    for name in (short, path[-1], "_".join(path)):
        letter = re.sub(r"[^A-Z0-9_]", "_", name.upper()).lstrip("_0123456789")
        letter += "_" if letter[-1:].isdigit() else ""
        if letter and letter not in taken and letter not in _LETTERS:
            return letter
    number = next(n for n in range(len(taken) + 1) if f"X{n}_" not in taken)
    return f"X{number}_"


def _in_stacks(inside: str, titles: set[str]) -> bool:
    place = _numbered(inside)
    return place is not None and place[0] in titles


def _apart(outside: Sequence[str]) -> tuple[str, ...]:
    """The names outside the stacks that a transformer with these keys has."""
    own = sorted({own_name(key) for key in outside})
    roles = {role(key) for key in outside}
    return tuple(
        dict.fromkeys((BASE, VAE, CLIP, T5, *(name for name in (IN, TXT, OUT) if name in roles), *own))
    )
