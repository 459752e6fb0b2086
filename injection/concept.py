"""A concept of extended textual inversion (XTI, P+ arXiv 2303.09522): token embeddings per cross-attention layer.

SD1 and SD2 have 16 such layers. SDXL has 11 blocks with cross-attention and two text encoders: a concept for it has
one embedding per block and text encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..blocks.walk import Block, ModelBlocks, numbered

LAYERS = (
    *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"),
    *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
)
SDXL_LAYERS = ("IN04", "IN05", "IN07", "IN08", "MID", "OUT00", "OUT01", "OUT02", "OUT03", "OUT04", "OUT05")
SDXL_DEPTHS = {4: 2, 5: 2, 7: 10, 8: 10}  # input block -> its cross-attention layers


class XTIError(ValueError):
    """A concept or a file that is not a complete extended textual inversion; the message says what is missing."""


def _sd1_blocks() -> ModelBlocks:
    """The blocks of SD1's U-Net, so that layers can be named without a model."""
    down = [
        Block("input", n, int(n % 3 > 0 and n < 9), 64 >> max(0, n - 1) // 3, f"down_blocks.{(n - 1) // 3}.attentions.{(n - 1) % 3}")
        for n in range(12)
    ]  # fmt: skip
    up = [
        Block("output", n, int(n > 2), 8 << n // 3, f"up_blocks.{n // 3}.attentions.{n % 3}")
        for n in range(12)
    ]
    middle = Block("middle", 0, 1, 8, "mid_block.attentions.0")
    return ModelBlocks(tuple(numbered([*down, middle, *up])), 64, 768)


def _sdxl_blocks() -> ModelBlocks:
    """The blocks of SDXL's U-Net."""
    down = [
        Block("input", n, SDXL_DEPTHS.get(n, 0), 128 >> max(0, n - 1) // 3, f"down_blocks.{(n - 1) // 3}.attentions.{(n - 1) % 3}")
        for n in range(9)
    ]  # fmt: skip
    up = [
        Block("output", n, (10, 2, 0)[n // 3], 32 << n // 3, f"up_blocks.{n // 3}.attentions.{n % 3}")
        for n in range(9)
    ]
    middle = Block("middle", 0, 10, 32, "mid_block.attentions.0")
    return ModelBlocks(tuple(numbered([*down, middle, *up])), 128, 2048)


SD1, SDXL = _sd1_blocks(), _sdxl_blocks()
BLOCKS = {LAYERS: SD1, SDXL_LAYERS: SDXL}


def layer_keys(blocks: ModelBlocks) -> tuple[str, ...]:
    """The blocks with cross-attention under the names of XTI files, which call the middle block ``MID``."""
    return tuple("MID" if block.name == "M00" else block.name for block in blocks.attending)


@dataclass(frozen=True, eq=False)
class XTI:
    """A concept: for each layer its token embeddings ``vectors dim``.

    ``common`` is a further token that precedes them in every layer (promptplusplus), ``origin`` the kind of file it
    came from. ``large`` are the embeddings of SDXL's second text encoder, CLIP-G, layer by layer.
    """

    name: str
    layers: tuple[Tensor, ...]
    common: Tensor | None = None
    origin: str = "kohya"
    large: tuple[Tensor, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its layers."""
        return SDXL_LAYERS if self.large else LAYERS

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers per token embedding, for each text encoder."""
        return tuple(layers[0].shape[1] for layers in (self.layers, self.large) if layers)

    def tokens(self, layer: int, encoder: int = 0) -> Tensor:
        """All token embeddings of a layer for a text encoder, the common one first: ``vectors dim``."""
        own = (self.layers, self.large)[encoder][layer]
        return own if self.common is None else torch.cat([self.common, own])


def mix(first: XTI, second: XTI, from_second: Sequence[int]) -> XTI:
    """Style mixing: the layers ``from_second`` of the second concept, the others of the first, under its name.

    P+ takes geometry from layers 5 and 6 (IN08, MID) of one concept and appearance from the rest of another.
    Raises XTIError for concepts of different widths.
    """
    if first.widths != second.widths:
        raise XTIError(
            f"<{first.name}> is {_wide(first)} numbers wide and <{second.name}> {_wide(second)}: they are for different "
            "text encoders. Mix concepts of one kind of model."
        )
    chosen = set(from_second)
    common = first.common
    if chosen and not _same(first.common, second.common):
        common = None  # each layer then carries the common token of the concept it is from
    parts = [second if layer in chosen else first for layer in range(len(first.keys))]
    if common is None:
        layers = tuple(part.tokens(layer) for layer, part in enumerate(parts))
    else:
        layers = tuple(part.layers[layer] for layer, part in enumerate(parts))
    large = tuple(part.large[layer] for layer, part in enumerate(parts)) if first.large else ()
    return replace(first, layers=layers, common=common, origin="mix", large=large)


def _wide(xti: XTI) -> str:
    return " and ".join(map(str, xti.widths))


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)
