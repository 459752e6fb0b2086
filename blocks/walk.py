"""The blocks of a loaded model that attend to a prompt, read off the module itself.

``walk`` serves every U-Net of the SD1 / SD2 / SDXL family (also pruned ones such as SSD-1B, Vega and KOALA)
because it looks only at the module: ``input_blocks``, ``middle_block``, ``output_blocks``, and inside them the
children that hold ``transformer_blocks``. ``stack`` describes a transformer: one row of equal blocks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .names import LAYOUTS, Layout, Stack, unet_layout

Side = Literal["input", "middle", "output", "block"]  # "block": a transformer's row of blocks
SubBlock = tuple[str, int, int]  # (side, number, inner): one cross-attention layer

DIRECTIONS: dict[str, str] = {
    "input": "down",
    "middle": "down",
    "output": "up",
    "block": "block",
}  # P+ counts the middle as down
PREFIXES: dict[str, str] = {"input": "IN", "middle": "M", "output": "OUT", "block": "B"}
# Width of the prompt's embedding -> side of the latent that the model was trained on.
NATIVE_SIDES = {768: 64, 1024: 64, 1280: 128, 2048: 128}


class NotAUNet(TypeError):
    """The model has no cross-attention blocks that can be addressed; the message says why."""


@dataclass(frozen=True)
class Block:
    """One block of a model under all its names.

    ``number`` counts within the side, ``depth`` is the number of cross-attention layers inside (0: none),
    ``index`` the place among blocks that have some, ``resolution`` the latent side it works at when the model
    runs at the size it was trained on (0 in transformers), ``plus`` the coordinate of P+ (arXiv 2303.09522,
    A.6), ``diffusers`` the module's name in diffusers or, for transformers, in ComfyUI.
    """

    side: Side
    number: int
    depth: int
    resolution: int
    diffusers: str
    index: int | None = None
    plus: tuple[int, str, int] | None = None

    @property
    def name(self) -> str:
        """The field's name: ``IN04``, ``M00``, ``OUT11``, ``B07``."""
        return f"{PREFIXES[self.side]}{self.number:02d}"

    @property
    def sub_blocks(self) -> tuple[SubBlock, ...]:
        """Its cross-attention layers, as ``(side, number, inner)``."""
        return tuple((self.side, self.number, inner) for inner in range(self.depth))


@dataclass(frozen=True)
class ModelBlocks:
    """All blocks of one model in running order, with and without cross-attention."""

    blocks: tuple[Block, ...]
    native: int  # latent side at the size the model was trained on; 0: no block has a resolution
    context: int  # width of the prompt's embedding; 0: any
    kind: str = "U-Net"

    @property
    def layout(self) -> Layout:
        """What a list of weights for this model addresses."""
        count = Counter(block.side for block in self.blocks)
        if count["block"]:
            path = self.blocks[0].diffusers.rpartition(".")[0]
            return Layout(self.kind, (Stack("B", path, count["block"]),))
        shape = (count["input"], bool(count["middle"]), count["output"])
        known = {(x.inputs, x.middle, x.outputs): x for x in LAYOUTS.values() if x.is_unet}
        return known.get(shape) or unet_layout("this model", *shape)

    @property
    def attending(self) -> tuple[Block, ...]:
        """The blocks that have cross-attention, in running order."""
        return tuple(block for block in self.blocks if block.depth)

    @property
    def sub_blocks(self) -> tuple[SubBlock, ...]:
        """Every cross-attention layer of the model, in running order."""
        return tuple(sub for block in self.attending for sub in block.sub_blocks)

    def find(self, side: str, number: int) -> Block | None:
        """The block with this number on this side, if there is one."""
        return next((b for b in self.blocks if (b.side, b.number) == (side, number)), None)


def walk(unet: Any, image_size: int | None = None) -> ModelBlocks:
    """The blocks of a U-Net module (ComfyUI's ``model.diffusion_model``).

    ``image_size`` is the latent side that the model's configuration states; it serves where the width of the
    prompt's embedding does not tell the family. Raises NotAUNet for anything else.
    """
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise NotAUNet(
            f"{type(unet).__name__} is not a U-Net: it has no input, middle and output blocks. Use a model of "
            "the SD1, SD2 or SDXL family."
        )
    context = _context_width(unet)
    native = NATIVE_SIDES.get(context or 0) or image_size or 64
    blocks = _down(unet.input_blocks, native)
    scale = 2 ** sum(_changes_size(module, "Downsample") for module in unet.input_blocks)
    if unet.middle_block is not None:
        depth = _depth(unet.middle_block)
        blocks.append(Block("middle", 0, depth, native // scale, "mid_block.attentions.0"))
    blocks = numbered(blocks + _up(unet.output_blocks, native, scale))
    if context is None or not any(block.depth for block in blocks):
        raise NotAUNet(
            f"{type(unet).__name__} has no cross-attention, so no block reads a prompt. Use a model of the SD1, "
            "SD2 or SDXL family."
        )
    return ModelBlocks(tuple(blocks), native, context)


def stack(kind: str, paths: Sequence[str], context: int) -> ModelBlocks:
    """The blocks B00, B01, ... of a transformer, given as module paths; ``context`` as in ModelBlocks."""
    blocks = [Block("block", number, 1, 0, path) for number, path in enumerate(paths)]
    return ModelBlocks(tuple(numbered(blocks)), 0, context, kind)


def _down(modules: Any, native: int) -> list[Block]:
    blocks, level, taken = [], 0, 0
    for number, module in enumerate(modules):
        depth = _depth(module)
        name = f"down_blocks.{level}.attentions.{taken}"
        blocks.append(Block("input", number, depth, native // 2**level, name))
        taken += bool(depth)
        if _changes_size(module, "Downsample"):
            level, taken = level + 1, 0
    return blocks


def _up(modules: Any, native: int, scale: int) -> list[Block]:
    blocks, level, taken = [], 0, 0
    for number, module in enumerate(modules):
        depth = _depth(module)
        name = f"up_blocks.{level}.attentions.{taken}"
        blocks.append(Block("output", number, depth, native // scale, name))
        taken += bool(depth)
        if _changes_size(module, "Upsample"):
            level, taken, scale = level + 1, 0, scale // 2
    return blocks


def numbered(blocks: list[Block]) -> list[Block]:
    """Give the blocks with cross-attention their running index and their P+ coordinate."""
    seen: Counter[tuple[int, str]] = Counter()
    index, out = 0, []
    for block in blocks:
        if block.depth:
            place = (block.resolution, DIRECTIONS[block.side])
            block = replace(block, index=index, plus=(*place, seen[place]))
            seen[place] += 1
            index += 1
        out.append(block)
    return out


def _transformers(module: Any) -> list[Any]:
    return [child for child in module or () if hasattr(child, "transformer_blocks")]


def _depth(module: Any) -> int:
    layers = [layer for transformer in _transformers(module) for layer in transformer.transformer_blocks]
    return len(layers) if layers and all(getattr(layer, "attn2", None) is not None for layer in layers) else 0


def _changes_size(module: Any, kind: str) -> bool:
    """Whether a block ends a level: it holds a Downsample or Upsample, or a residual block that does both."""
    return any(
        type(child).__name__ == kind
        or (getattr(child, "updown", False) and type(getattr(child, "h_upd", None)).__name__ == kind)
        for child in module
    )


def _context_width(unet: Any) -> int | None:
    for module in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        for transformer in _transformers(module):
            for layer in transformer.transformer_blocks:
                if getattr(layer, "attn2", None) is not None:
                    return layer.attn2.to_k.weight.shape[1]
    return None
