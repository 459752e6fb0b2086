"""How much a learned token looks like a word: a kernel density over the vocabulary's embeddings.

With vocabulary embeddings e_1..e_N (``N d``) and bandwidth h,

    log p(v) = logsumexp_j( -|v - e_j|^2 / (2 h^2) ) - log N - d/2 log(2 pi h^2)

the form that P+ (arXiv 2303.09522) regularises XTI with. The bandwidth, if none is given, is the one under which
the vocabulary's own tokens, each left out in turn, are most likely.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE = 128  # vocabulary tokens that bandwidth and band are read from, evenly spaced
BANDWIDTHS = 60


@dataclass(frozen=True)
class Reading:
    """Log densities of tokens, and the 5 % to 95 % band of the vocabulary's own (left out in turn)."""

    values: list[list[float]]  # per layer, per vector
    low: float
    high: float
    bandwidth: float


def squared_distances(tokens: Tensor, vocabulary: Tensor) -> Tensor:
    """``n d``, ``N d -> n N``, in fp64, where expanding the square costs no digits that matter."""
    tokens, vocabulary = tokens.double(), vocabulary.double()
    products = tokens @ vocabulary.T
    squared = tokens.square().sum(1)[:, None] + vocabulary.square().sum(1)[None] - 2 * products
    return squared.clamp_min(0)


def log_density(squared: Tensor, width: int, bandwidth: float, counts: Tensor | None = None) -> Tensor:
    """``n N -> n``: the formula above, from squared distances; ``counts``: how many equal tokens a column is for."""
    exponents = -squared / (2 * bandwidth**2)
    if counts is None:
        count = torch.tensor(squared.shape[1]).to(exponents)
    else:
        exponents, count = exponents + counts.to(exponents).log(), counts.sum(-1).to(exponents)
    kernel = torch.logsumexp(exponents, dim=1)
    return kernel - count.log() - width / 2 * math.log(2 * math.pi * bandwidth**2)


class WordDensity:
    """The log density as a differentiable function of tokens ``n d -> n``, for training; 0: own bandwidth.

    Rows of the vocabulary that are equal are computed once. fp32, from differences, so that any device can run it.
    """

    def __init__(self, vocabulary: Tensor, bandwidth: float = 0.0):
        self.width = vocabulary.shape[1]
        self.bandwidth = bandwidth or _most_likely(*_left_out(vocabulary.double()), self.width)
        self.rows, self.counts = torch.unique(vocabulary.float(), dim=0, return_counts=True)

    def to(self, device: torch.device) -> "WordDensity":
        """The same, computing on a device."""
        self.rows, self.counts = self.rows.to(device), self.counts.to(device)
        return self

    def __call__(self, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self.rows)
        squared = torch.cdist(tokens, self.rows, compute_mode="donot_use_mm_for_euclid_dist").square()
        return log_density(squared, self.width, self.bandwidth, counts=self.counts)


def read_density(layers: list[Tensor], vocabulary: Tensor, bandwidth: float = 0.0) -> Reading:
    """Log densities of each layer's tokens (``vectors d``) against a vocabulary (``N d``); 0: own bandwidth.

    Raises ValueError for tokens of another width than the vocabulary's.
    """
    for tokens in layers:
        if tokens.shape[1] != vocabulary.shape[1]:
            raise ValueError(
                f"The concept is {tokens.shape[1]} numbers wide per token and the text encoder {vocabulary.shape[1]}. "
                "Connect the CLIP that the concept was trained for."
            )
    vocabulary = vocabulary.double()
    width = vocabulary.shape[1]
    own, counts = _left_out(vocabulary)
    bandwidth = bandwidth or _most_likely(own, counts, width)
    band = log_density(own, width, bandwidth, counts)
    low, high = torch.quantile(band, torch.tensor([0.05, 0.95], dtype=band.dtype)).tolist()
    values = [
        log_density(squared_distances(tokens, vocabulary), width, bandwidth).tolist() for tokens in layers
    ]
    return Reading(values, low, high, bandwidth)


def _left_out(vocabulary: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances ``n N`` of a sample of the vocabulary to its different tokens, and how often each counts.

    A token of the sample does not count itself.
    """
    rows, inverse, counts = torch.unique(vocabulary, dim=0, return_inverse=True, return_counts=True)
    chosen = torch.linspace(0, len(vocabulary) - 1, min(SAMPLE, len(vocabulary))).long()
    others = counts.repeat(len(chosen), 1)
    others[torch.arange(len(chosen)), inverse[chosen]] -= 1
    return squared_distances(vocabulary[chosen], rows), others


def _most_likely(squared: Tensor, counts: Tensor, width: int) -> float:
    """The bandwidth with the largest left-out likelihood, on a logarithmic grid around the nearest distances.

    Medians, not means: a vocabulary has tokens that training never touched, and copies of one another. A density is at
    most what it would be with all tokens as near as the nearest, so few bandwidths of the grid are worked out.
    """
    # A copy of a token is at distance 0 from it, which says nothing about the width of a kernel.
    nothing = squared.amax() * 1e-12  # what rounding leaves of a distance of 0
    apart = squared.masked_fill(squared <= nothing, math.inf).min(dim=1).values
    apart = apart[apart.isfinite()]
    if not apart.numel():
        raise ValueError(
            "All tokens of this text encoder are the same, so no bandwidth can be read from them."
        )
    nearest = apart.median().sqrt().item() / math.sqrt(width)
    grid = torch.logspace(math.log10(nearest) - 1, math.log10(nearest) + 1, BANDWIDTHS).tolist()
    least = squared.masked_fill(counts == 0, math.inf).amin(dim=1, keepdim=True)
    bounds = {h: log_density(least, width, h).median().item() for h in grid}
    best, found = -math.inf, grid[0]
    for h in sorted(grid, key=bounds.__getitem__, reverse=True):
        if bounds[h] <= best:
            break
        value = log_density(squared, width, h, counts).median().item()
        if value > best:
            best, found = value, h
    return found
