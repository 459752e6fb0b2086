"""Merge methods: pure functions over tensors, computed in fp32 and rounded once to the dtype of ``a``.

The same functions serve the live path and the file path, so what is previewed is what is saved.
``METHODS`` is the registry: how many models a method takes, which of its numbers vary per block, which
are options of the whole merge, and where its formula comes from.
"""

from .cosine import cosine_a, cosine_b
from .deltas import dare, della, model_stock, ties
from .linear import add_difference, average, each, scale, sigmoid, sum_twice, triple_sum, weighted_sum
from .nonlinear import extract, geometric, similarity_add_difference, slerp, train_difference
from .registry import METHODS, Method, seed_for
from .spatial import smooth_add, tensor_sum

__all__ = [
    "METHODS",
    "Method",
    "add_difference",
    "average",
    "cosine_a",
    "cosine_b",
    "dare",
    "della",
    "each",
    "extract",
    "geometric",
    "model_stock",
    "scale",
    "seed_for",
    "sigmoid",
    "similarity_add_difference",
    "slerp",
    "smooth_add",
    "sum_twice",
    "tensor_sum",
    "ties",
    "train_difference",
    "triple_sum",
    "weighted_sum",
]
