"""Sums that come out the same whatever number of threads torch uses."""

import math

import torch
from torch import Tensor

PIECE = 1 << 14  # below torch's grain size: one piece is summed by one thread


def dot(a: Tensor, b: Tensor) -> float:
    """The inner product of two tensors of one shape, in float64, piece by piece in a fixed order."""
    pieces = zip(a.reshape(-1).split(PIECE), b.reshape(-1).split(PIECE), strict=True)
    partial = [torch.sum(x.double() * y.double()) for x, y in pieces]
    return math.fsum(torch.stack(partial).tolist()) if partial else 0.0


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine of the angle between two tensors, taken as vectors; 0 where one of them is zero."""
    norms = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / norms if norms else 0.0
