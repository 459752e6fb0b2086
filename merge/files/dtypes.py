"""The dtypes a merged file can be written in."""

import torch

from ...blocks.keys import OTHER, UNET
from .header import Entry

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def output_dtype(choice: str, part: str, entry: Entry) -> torch.dtype:
    """The dtype a tensor is written in.

    ``same`` keeps it. Integers and schedule buffers are never cast. fp8 is for the matrices and kernels of the
    diffusion model alone: norms, biases, text encoder and VAE need more than three bits of mantissa.
    """
    if choice == "same" or part == OTHER or not entry.dtype.is_floating_point:
        return entry.dtype
    if choice.startswith("fp8") and (part != UNET or len(entry.shape) < 2):
        return entry.dtype
    return DTYPES[choice]
