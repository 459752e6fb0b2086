"""The rotation of ConvRot: groups of columns times a regular Hadamard matrix, which is its own inverse."""

import torch
from torch import Tensor


def is_size(group: int) -> bool:
    """Whether there is a rotation of this many columns: powers of 4 from 4 on."""
    return group >= 4 and group & (group - 1) == 0 and group.bit_length() % 2 == 1


def rotated(values: Tensor, group: int) -> Tensor:
    """Rows (``r c``) with every ``group`` columns multiplied by the normalised regular Hadamard matrix.

    The matrix is a Kronecker product of 4 x 4 matrices with rows ``1 1 1 -1`` in every order, so that it is applied
    to one base-4 digit of the column number after another, with additions alone: the bits of a row do not depend
    on how many rows are given. Source: comfy_kitchen.tensor.int8_utils.
    """
    rows = values.shape[0]
    stride = 1
    while stride < group:
        digits = values.reshape(rows, -1, 4, stride)
        a, b, c, d = digits.unbind(2)
        half = ((a + b) + (c + d)) * 0.5
        values = torch.stack([half - d, half - c, half - b, half - a], 2)
        stride *= 4
    return values.reshape(rows, -1)
