"""The dtypes a merged file can be written in."""

from collections.abc import Iterable, Iterator, Mapping

import torch

from ...blocks.keymap import block_of
from ...blocks.keys import OTHER, UNET, part_of
from ...blocks.names import Layout
from .header import Entry
from .quantised import fp8_scaled

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


FP8_SCALED = "fp8_scaled"
SIDES = 16  # columns and rows of the matrices that GPUs multiply in fp8 are multiples of this


def written_as(choice: str, part: str, entry: Entry, in_block: bool = True) -> Entry:
    """dtype and form in which a tensor is written, its codes and scales kept where the form stays the same.

    ``fp8_scaled``: a scale for each matrix of the diffusion model that ``in_block`` admits.
    """
    if choice == "same" or part == OTHER:
        return entry
    if choice == FP8_SCALED:
        if part != UNET or not in_block:
            return entry
        same = entry.quantised is not None and entry.quantised.format == fp8_scaled(entry.shape).format
        return entry if same else Entry(torch.float32, entry.shape, fp8_scaled(entry.shape))
    if choice.startswith("fp8") and (part != UNET or len(entry.shape) < 2):
        return entry
    return Entry(output_dtype(choice, part, entry), entry.shape)


class Matrices:
    """The tensors that dtype=fp8_scaled is for: those of the diffusion model that A has quantised, or all its matrices
    inside blocks."""

    def __init__(self, entries: Mapping[str, Entry], layout: Layout):
        self._entries, self._layout = entries, layout
        self._some = any(entry.quantised for key, entry in entries.items() if part_of(key) == UNET)

    def __contains__(self, key: str) -> bool:
        entry = self._entries.get(key)
        if entry is None or self._some:
            return entry is not None and entry.quantised is not None
        sides = entry.shape
        matrix = entry.dtype.is_floating_point and len(sides) == 2 and not any(side % SIDES for side in sides)
        if not matrix or not key.endswith(".weight"):
            return False
        return block_of(key, self._layout, "comfy") in self._layout.index


def unused(choice: str, entries: Iterable[Entry]) -> Iterator[str]:
    """What a report warns of where a float8 output has no tensor in float8."""
    if not choice.startswith("fp8") or any(
        entry.quantised or entry.dtype == DTYPES.get(choice) for entry in entries
    ):
        return
    yield (
        f"dtype={choice} changes nothing: it is for the matrices of a diffusion model, and the result has none that it can "
        "be used for. Use fp16 or bf16."
    )


def output_dtype(choice: str, part: str, entry: Entry) -> torch.dtype:
    """The dtype a tensor is written in.

    ``same`` keeps it. Integers and schedule buffers are never cast. fp8 is for the matrices and kernels of the
    diffusion model alone: norms, biases, text encoder and VAE need more than three bits of mantissa.
    """
    if choice in ("same", FP8_SCALED) or part == OTHER or not entry.dtype.is_floating_point:
        return entry.dtype
    if choice.startswith("fp8") and (part != UNET or len(entry.shape) < 2):
        return entry.dtype
    return DTYPES[choice]
