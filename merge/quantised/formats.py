"""The quantised formats of ComfyUI in plain torch: numbers from codes and scales, and codes from numbers.

A stored weight is ``number(code) * step``, in a rotated basis for ConvRot; a format says how codes are packed, and how
many weights share a step. Everything is computed in float32, row by row, so that any rows of a weight give the same
bits as the whole. Rounding is to the nearest code. Formats: ComfyUI's ``QUANT_ALGOS`` and the layouts of comfy_kitchen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .rotation import rotated

SCALE, SCALE_2 = "weight_scale", "weight_scale_2"
Scales = Mapping[str, Tensor]

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
# Halfway between two numbers of E2M1; a tie goes to the even code, so every second bound belongs to the code above.
_MIDDLES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
_MIDDLES[1::2] = torch.nextafter(_MIDDLES[1::2], torch.tensor(0.0))
_FP8, _BYTES = torch.float8_e4m3fn, torch.uint8
_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}
_HALF = {
    torch.float8_e4m3fn: (2**-4, 2**-10),
    torch.float8_e5m2: (2**-3, 2**-17),
    torch.int8: (0, 0.5),
    _BYTES: (0.25, 0.25),
}
_SMALLEST = 1e-30  # scale: its reciprocal is finite
_TILE = 128  # rows of a tile in which cuBLAS holds block scales


@dataclass(frozen=True)
class Format:
    """One way of storing a weight of ``rows x columns``; the subclasses differ in who shares a step."""

    name: str  # in ComfyUI's QUANT_ALGOS
    codes: torch.dtype
    group: int = 0  # columns that are rotated together; 0: not rotated
    per_byte: ClassVar[int] = 1  # codes in one stored element

    def stored_width(self, columns: int) -> int:
        """How many stored elements hold the codes of a row."""
        return columns // self.per_byte

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the weight with codes of this shape."""
        return (*stored[:-1], stored[-1] * self.per_byte) if stored else ()

    def fits(self, shape: tuple[int, ...], scales: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether scales of these shapes belong to a weight of this shape."""
        raise NotImplementedError

    def steps(self, scales: Scales, first: int, shape: tuple[int, int]) -> Tensor:
        """The steps of the rows from ``first`` on, as a tensor that spreads over ``shape``."""
        raise NotImplementedError

    def measure(self, values: Tensor) -> Tensor:
        """What new steps depend on: the largest magnitude of the values that share one, for some rows."""
        raise NotImplementedError

    def joined(self, measures: list[Tensor]) -> Tensor:
        """The measure of a weight from those of its rows."""
        return torch.cat(measures)

    def fresh(self, measure: Tensor) -> dict[str, Tensor]:
        """New scales from the measure of a whole weight."""
        raise NotImplementedError

    def decode(self, codes: Tensor, steps: Tensor) -> Tensor:
        """Codes of some rows (``r c``) as float32 values."""
        return self.turned((self.numbers(codes) * steps).reshape(codes.shape[0], -1))

    def encode(self, values: Tensor, steps: Tensor) -> Tensor:
        """float32 values of some rows (``r c``) as codes."""
        return self.rounded(self.turned(values), steps)

    def turned(self, values: Tensor) -> Tensor:
        """Values of some rows in the stored basis, or stored ones in the usual basis."""
        return rotated(values, self.group) if self.group else values

    def numbers(self, codes: Tensor) -> Tensor:
        """The numbers that codes stand for, before the step."""
        return codes.to(torch.float32)

    def rounding(
        self, scales: Scales, shape: tuple[int, ...], squared_length: float, largest: float = 1.0
    ) -> float:
        """The largest squared length of the error of rounding a weight of this squared length to its codes.

        Half the distance of two numbers is at most ``part`` of the number, or ``least`` steps near 0. ``largest`` is
        the largest factor that a weight is multiplied by when it is read.
        """
        part, least = _HALF[self.codes]
        numel = math.prod(shape)
        steps = self.steps(scales, 0, (numel // shape[-1], shape[-1])).double()
        squares = float(steps.square().sum()) * numel / steps.numel()  # of the steps of all weights
        return part**2 * squared_length + (least * largest) ** 2 * squares

    def rounded(self, values: Tensor, steps: Tensor) -> Tensor:
        """Values of the stored basis as codes."""
        largest = _LARGEST[self.codes]
        if self.codes == torch.int8:
            return (values / steps).round_().clamp_(-128.0, largest).to(self.codes)
        return (values * (1.0 / steps)).clamp_(-largest, largest).to(self.codes)


@dataclass(frozen=True)
class OneStep(Format):
    """fp8_scaled and int8 with one step for the whole weight."""

    def fits(self, shape, scales):
        return set(scales) == {SCALE} and math.prod(scales[SCALE]) == 1

    def steps(self, scales, first, shape):
        return scales[SCALE].to(torch.float32).reshape(1, 1)

    def measure(self, values):
        return self.turned(values).abs().amax().reshape(1)

    def joined(self, measures):
        return torch.cat(measures).amax()

    def fresh(self, measure):
        step = measure / _LARGEST[self.codes]
        if self.codes == torch.int8:
            return {SCALE: step.clamp(min=_SMALLEST)}
        return {SCALE: torch.where(step == 0, torch.ones(()), step.clamp(min=_SMALLEST))}


@dataclass(frozen=True)
class RowSteps(Format):
    """int8 and fp8 with a step per row; ConvRot rotates the rows first."""

    def fits(self, shape, scales):
        return set(scales) == {SCALE} and len(shape) == 2 and math.prod(scales[SCALE]) == shape[0]

    def steps(self, scales, first, shape):
        return scales[SCALE].to(torch.float32).reshape(-1, 1)[first : first + shape[0]]

    def measure(self, values):
        return self.turned(values).abs().amax(1)

    def fresh(self, measure):
        return {SCALE: (measure / _LARGEST[self.codes]).clamp(min=_SMALLEST)[:, None]}


@dataclass(frozen=True)
class FourBitRows(RowSteps):
    """convrot_w4a4: two signed four-bit codes in a byte, the even column in its low half."""

    per_byte: ClassVar[int] = 2

    def fresh(self, measure):
        return {SCALE: measure.clamp(min=1e-10) / 7}

    def numbers(self, codes):
        halves = torch.stack([codes << 4 >> 4, codes >> 4], -1)  # arithmetic shifts keep the sign
        return halves.flatten(-2).to(torch.float32)

    def rounded(self, values, steps):
        codes = (values / steps).round_().clamp_(-7.0, 7.0).to(torch.int8)
        return (codes[:, 0::2] & 0x0F) | (codes[:, 1::2] << 4)


@dataclass(frozen=True)
class BlockSteps(Format):
    """mxfp8: a power of two per 32 columns."""

    block: int = 32
    scales: torch.dtype = torch.float8_e8m0fnu

    def fits(self, shape, scales):
        return len(shape) == 2 and set(scales) == {SCALE} and self._tiled(shape, scales)

    def _tiled(self, shape: tuple[int, ...], scales: Mapping[str, tuple[int, ...]]) -> bool:
        rows, blocks = -(-shape[0] // _TILE) * _TILE, -(-shape[1] // self.block // 4) * 4
        return shape[1] % self.block == 0 and math.prod(scales[SCALE]) == rows * blocks

    def block_steps(self, scales: Scales, first: int, shape: tuple[int, int]) -> Tensor:
        """The scales of the blocks as float32, ``r b``, from the tiles that cuBLAS reads."""
        rows, blocks = shape[0], shape[1] // self.block
        raw = scales[SCALE].reshape(-1).view(torch.uint8)
        tiles = raw.view(-1, -(-blocks // 4), 32, 4, 4).transpose(2, 3)  # row tile, column tile, 4, 32, 4
        last = first + rows
        some = tiles[first // _TILE : -(-last // _TILE)]
        whole = some.permute(0, 2, 3, 1, 4).reshape(some.shape[0] * _TILE, -1)
        start = first % _TILE
        return self._as_float(whole[start : start + rows, :blocks].contiguous())

    def _as_float(self, scales: Tensor) -> Tensor:
        if self.scales == torch.float8_e8m0fnu:  # 0 is the scale of a block of zeros
            return (scales.to(torch.int32) << 23).view(torch.float32)
        return scales.view(self.scales).to(torch.float32)

    def _tiles(self, scales: Tensor) -> Tensor:
        """Scales of blocks, ``r b`` bytes, in the tiles of 128 rows and 4 blocks that cuBLAS reads."""
        rows, blocks = scales.shape
        padded = torch.zeros(-(-rows // _TILE) * _TILE, -(-blocks // 4) * 4, dtype=_BYTES)
        padded[:rows, :blocks] = scales.view(_BYTES)
        tiles = padded.view(-1, 4, 32, padded.shape[1] // 4, 4).permute(0, 3, 2, 1, 4)
        return tiles.reshape(padded.shape).view(self.scales)

    def steps(self, scales, first, shape):
        return self.block_steps(scales, first, shape)[..., None]

    def measure(self, values):
        return values.view(values.shape[0], -1, self.block).abs().amax(-1)

    def fresh(self, measure):
        exponents = torch.log2((measure / _LARGEST[_FP8]).clamp(min=2.0**-127)).ceil().to(torch.int32)
        exponents = (exponents + 127).clamp(0, 254).to(_BYTES)
        return {SCALE: self._tiles(torch.where(measure == 0, torch.zeros_like(exponents), exponents))}

    def decode(self, codes, steps):
        numbers = self.numbers(codes)
        return (numbers.view(codes.shape[0], -1, self.block) * steps).flatten(1)

    def rounded(self, values, steps):
        blocks = values.view(values.shape[0], -1, self.block)
        scaled = torch.where(steps == 0, 0.0, blocks / torch.where(steps == 0, 1.0, steps))
        return self.nearest(scaled.flatten(1))

    def nearest(self, scaled: Tensor) -> Tensor:
        """The codes of numbers that are divided by their steps."""
        return scaled.clamp_(-_LARGEST[_FP8], _LARGEST[_FP8]).to(_FP8)


@dataclass(frozen=True)
class FourBitBlocks(BlockSteps):
    """nvfp4: four-bit floats, the even column in the high half of a byte; a float8 step per 16 columns and one for all."""

    block: int = 16
    scales: torch.dtype = _FP8
    per_byte: ClassVar[int] = 2

    def fits(self, shape, scales):
        return (
            len(shape) == 2
            and set(scales) == {SCALE, SCALE_2}
            and math.prod(scales[SCALE_2]) == 1
            and self._tiled(shape, scales)
        )

    def steps(self, scales, first, shape):
        whole = scales[SCALE_2].to(torch.float32).reshape(())
        return (whole * self.block_steps(scales, first, shape))[..., None]

    def fresh(self, measure):
        whole = measure.amax() / (_LARGEST[_FP8] * 6.0)
        whole = torch.where(whole == 0, torch.ones(()), whole)
        blocks = (measure / 6.0 / whole).clamp(max=_LARGEST[_FP8]).to(_FP8)
        return {SCALE: self._tiles(blocks), SCALE_2: whole}

    def numbers(self, codes):
        halves = torch.stack([codes >> 4, codes & 0x0F], -1).flatten(-2)
        magnitudes = _E2M1[(halves & 7).to(torch.int64)]
        return torch.where(halves >= 8, -magnitudes, magnitudes)

    def nearest(self, scaled):
        codes = torch.bucketize(scaled.abs(), _MIDDLES).to(_BYTES)
        codes = codes | (scaled.signbit().to(_BYTES) << 3)
        return (codes[:, 0::2] << 4) | codes[:, 1::2]


FP8_SCALED = OneStep("float8_e4m3fn", torch.float8_e4m3fn)
