"""The blocks of a loaded U-Net, read off the module itself: no table of models.

``walk`` serves every U-Net of the SD1 / SD2 / SDXL family (also pruned ones such as SSD-1B, Vega and KOALA)
because it looks only at what is there: ``input_blocks``, ``middle_block``, ``output_blocks``, and inside
them the children that hold ``transformer_blocks``.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from .names import LAYOUTS, Layout, unet_layout

Side = Literal["input", "middle", "output"]
SubBlock = tuple[str, int, int]  # (side, number, inner): one cross-attention layer

DIRECTIONS: dict[str, str] = {
    "input": "down",
    "middle": "down",
    "output": "up",
}  # P+ counts the middle as down
PREFIXES: dict[str, str] = {"input": "IN", "middle": "M", "output": "OUT"}
SMALL_CONTEXTS = (768, 1024)  # SD1, SD2: made for a latent 64 wide; SDXL and its kin for 128


class NotAUNet(TypeError):
    """The module has no U-Net blocks to walk; the message says what it is instead."""


@dataclass(frozen=True)
class Block:
    """One block of a U-Net under all its names.

    ``number`` counts within the side, ``depth`` is the number of cross-attention layers inside (0: none),
    ``index`` the place among blocks that have some, ``resolution`` the latent side it works at when the model
    runs at the size it was made for, ``plus`` the coordinate of P+ (arXiv 2303.09522, A.6).
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
        """The field's name: ``IN04``, ``M00``, ``OUT11``."""
        return f"{PREFIXES[self.side]}{self.number:02d}"

    @property
    def sub_blocks(self) -> tuple[SubBlock, ...]:
        """Its cross-attention layers, as ``(side, number, inner)``."""
        return tuple((self.side, self.number, inner) for inner in range(self.depth))


@dataclass(frozen=True)
class UNetBlocks:
    """All blocks of one U-Net from the input to the output side, with and without cross-attention."""

    blocks: tuple[Block, ...]
    native: int  # latent side at the size the model was made for
    context: int  # width of the prompt's embedding

    @property
    def layout(self) -> Layout:
        """What a list of weights for this model addresses."""
        count = Counter(block.side for block in self.blocks)
        shape = (count["input"], bool(count["middle"]), count["output"])
        known = {(x.inputs, x.middle, x.outputs): x for x in LAYOUTS.values() if x.is_unet}
        return known.get(shape) or unet_layout("this U-Net", *shape)

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


def walk(unet: Any) -> UNetBlocks:
    """The blocks of a U-Net module (ComfyUI's ``model.diffusion_model``); NotAUNet for anything else."""
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise NotAUNet(
            f"{type(unet).__name__} is not a U-Net: it has no input, middle and output blocks. Models of the "
            "MM-DiT kind (SD3, Flux, Qwen-Image ...) join text and image tokens in one attention and have no "
            "cross-attention blocks to address. Use a model of the SD1, SD2 or SDXL family."
        )
    context = _context_width(unet)
    native = 64 if context in SMALL_CONTEXTS else 128
    blocks = _down(unet.input_blocks, native)
    scale = 2 ** sum(_changes_size(module, "Downsample") for module in unet.input_blocks)
    if unet.middle_block is not None:
        depth = _depth(unet.middle_block)
        blocks.append(Block("middle", 0, depth, native // scale, "mid_block.attentions.0"))
    blocks = numbered(blocks + _up(unet.output_blocks, native, scale))
    if context is None or not any(block.depth for block in blocks):
        raise NotAUNet(f"{type(unet).__name__} has no cross-attention: there is no prompt inside its blocks.")
    return UNetBlocks(tuple(blocks), native, context)


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
