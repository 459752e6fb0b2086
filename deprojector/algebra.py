"""Arithmetic on text embeddings, all of it in the space of CLIP's pooled state: vectors ``d``, one per text.

``null`` is the embedding of the empty text. What a text means is its difference from it, so the sum that the
deprojector was trained on is ``null + sum(e_i - null)``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DeprojectorError

MERGES = ("difference", "sum", "mean")
NORMS = ("off", "original", "consistent")


class Chunk(NamedTuple):
    """One text of a merge and its weight."""

    text: str
    weight: float


def parse(text: str, separator: str = ",") -> list[Chunk]:
    """The chunks of ``cat:1.2, maid:-0.3``, split at ``separator``; weight 1 unless given.

    A backslash before the separator makes it part of the text.

    >>> parse("cat ears:1.2, (maid:-0.3), a \\\\, b")
    [Chunk(text='cat ears', weight=1.2), Chunk(text='maid', weight=-0.3), Chunk(text='a , b', weight=1.0)]
    """
    hidden = text.replace("\\" + separator, "\0")
    pieces = (piece.replace("\0", separator).strip() for piece in hidden.split(separator))
    return [_chunk(piece) for piece in pieces if piece]


def _chunk(piece: str) -> Chunk:
    inner = piece[1:-1].strip() if piece.startswith("(") and piece.endswith(")") else piece
    text, colon, number = inner.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return Chunk(piece, 1.0)
    if not colon or not text.strip():
        return Chunk(piece, 1.0)
    if not math.isfinite(weight):
        raise DeprojectorError(
            f"the weight of {text.strip()!r} must be a finite number, got {number.strip()!r}."
        )
    return Chunk(text.strip(), weight)


def merged(
    embeds: Sequence[Tensor],
    null: Tensor,
    weights: Sequence[float] | None = None,
    merge: str = "difference",
    norm: str = "off",
) -> Tensor:
    """One embedding ``d`` from several; the empty text's if there are none.

    ``difference``: ``null + sum w_i (e_i - null)``; ``sum``: ``sum w_i e_i``; ``mean``:
    ``sum w_i e_i / sum w_i``. ``norm`` ``original`` scales the result to the mean length of the summands,
    which for ``difference`` are the differences although the result is not one (as the original does);
    ``consistent`` scales what was summed.
    """
    _one_of("merge", merge, MERGES)
    _one_of("norm", norm, NORMS)
    if not embeds:
        return null.clone()
    weights = [1.0] * len(embeds) if weights is None else list(weights)
    if len(weights) != len(embeds):
        raise DeprojectorError(f"{len(embeds)} embeddings need as many weights, got {len(weights)}.")
    base = null if merge == "difference" else torch.zeros_like(null)
    parts = [
        _scaled(e - null if merge == "difference" else e, w) for e, w in zip(embeds, weights, strict=True)
    ]
    total = sum(parts[1:], parts[0])
    if merge == "mean":
        if abs(sum(weights)) < 1e-6:
            raise DeprojectorError("the mean needs weights that do not add up to zero.")
        total = total / sum(weights)
    if norm == "consistent":
        return base + match_norm(total, _mean_norm(parts))
    result = total + base if merge == "difference" else total
    return result * (_mean_norm(parts) / torch.norm(result)) if norm == "original" else result


def _scaled(vector: Tensor, weight: float) -> Tensor:
    return vector if weight == 1.0 else weight * vector


def _mean_norm(vectors: Sequence[Tensor]) -> Tensor:
    return sum((torch.norm(vector) for vector in vectors[1:]), torch.norm(vectors[0])) / len(vectors)


def match_norm(vector: Tensor, length: Tensor | float) -> Tensor:
    """The vector with another length; the zero vector stays."""
    own = torch.norm(vector)
    return vector if own == 0 else vector * (length / own)


def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """``a + t (b - a)``."""
    return torch.lerp(a, b, t)


def slerp(a: Tensor, b: Tensor, t: float, null: Tensor | None = None) -> Tensor:
    """From ``a`` to ``b`` along the great circle around ``null`` (or zero), the length going evenly.

    Falls back to ``lerp`` where the circle is not defined: a difference of length zero, or opposite ones.
    """
    centre = torch.zeros_like(a) if null is None else null
    first, second = (a - centre).double(), (b - centre).double()
    lengths = torch.norm(first), torch.norm(second)
    if lengths[0] == 0 or lengths[1] == 0:
        return lerp(a, b, t)
    u, v = first / lengths[0], second / lengths[1]
    # atan2 keeps its precision for small angles, where acos of the product loses it
    angle = 2 * torch.atan2(torch.norm(u - v), torch.norm(u + v))
    if torch.sin(angle) < 1e-6:
        return lerp(a, b, t)
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    return (centre.double() + direction * torch.lerp(lengths[0], lengths[1], t)).to(a)


def image_embedding(image: Tensor, inverse: Tensor, null: Tensor, base: Tensor | None = None) -> Tensor:
    """A CLIP image embedding (``... p``, projected, not normalised) in the pooled space: ``... d``.

    Without ``base`` it is ``inverse @ image``. With ``base``, the embedding of a neutral image,
    ``inverse @ (image - base) + null``: what tells the image from the neutral one, added to the empty text.
    """
    if image.shape[-1] != inverse.shape[1]:
        raise DeprojectorError(
            f"the image embedding has {image.shape[-1]} numbers, this deprojector needs {inverse.shape[1]}: "
            "use the CLIP vision model ViT-L/14 (ViT-H gives 1024, ViT-bigG 1280)."
        )
    image = image.to(inverse)
    if base is None:
        return F.linear(image, inverse)
    return F.linear(image - base.to(inverse), inverse) + null.to(inverse)


def _one_of(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise DeprojectorError(f"unknown {what} {given!r}; known are {', '.join(known)}.")
