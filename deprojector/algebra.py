"""Texts with weights, and arithmetic on their embeddings in the space of CLIP's pooled state: vectors ``d``.

``null`` is the embedding of the empty text. A text's meaning is its difference from it, so the sum that the
deprojector was trained on is ``null + sum(e_i - null)``.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DeprojectorError

MERGES = ("difference", "sum", "mean")
NORMS = ("off", "original", "consistent")
WEIGHT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(inf|infinity|nan)", re.ASCII | re.IGNORECASE)


class Chunk(NamedTuple):
    """One text of a merge and its weight."""

    text: str
    weight: float


def parse(text: str, separator: str = ",") -> list[Chunk]:
    """The chunks of ``cat:1.2, (maid, standing:-0.3)``, split at ``separator`` outside brackets.

    The weight follows the last colon, and is 1 without one. A colon after a digit is text unless brackets
    enclose the whole chunk. A backslash makes a separator or colon part of the text.

    >>> parse("cat ears:1.2, (maid:-0.3), a \\, b")
    [Chunk(text='cat ears', weight=1.2), Chunk(text='maid', weight=-0.3), Chunk(text='a , b', weight=1.0)]
    >>> parse("clock at 12:30, (16:9 poster, framed:0.5)")
    [Chunk(text='clock at 12:30', weight=1.0), Chunk(text='16:9 poster, framed', weight=0.5)]
    """
    depths = _depths(text)
    pieces, start = [], 0
    for place, (letter, depth) in enumerate(zip(text, depths, strict=True)):
        if letter == separator and depth == 0 and not _escaped(text, place):
            pieces.append(text[start:place])
            start = place + 1
    pieces.append(text[start:])
    return [_chunk(piece.strip(), separator) for piece in pieces if piece.strip()]


def _escaped(text: str, place: int) -> bool:
    before = text[max(place - 64, 0) : place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _depths(text: str) -> list[int]:
    """How many brackets enclose each letter; zeros where the text's brackets do not match."""
    depths, depth = [], 0
    for place, letter in enumerate(text):
        bracket = letter in "()" and not _escaped(text, place)
        depth -= bracket and letter == ")"
        if depth < 0:
            break
        depths.append(depth)
        depth += bracket and letter == "("
    return depths if depth == 0 else [0] * len(text)


def _chunk(piece: str, separator: str) -> Chunk:
    depths = _depths(piece)
    enclosed = piece[0] == "(" and piece[-1] == ")" and len(piece) > 2 and 0 not in _inside(piece, depths)
    inner = piece[1:-1].strip() if enclosed else piece
    text, colon, number = inner.rpartition(":")
    text, number = text.rstrip(), number.strip()
    weighted = colon and text.strip() and WEIGHT.fullmatch(number) and not _escaped(inner, inner.rindex(":"))
    if not weighted or (text[-1].isdigit() and not enclosed):
        return Chunk(_unescaped(piece, separator), 1.0)
    text = _unescaped(text.strip(), separator)
    weight = float(number)
    if not math.isfinite(weight):
        raise DeprojectorError(f"The weight of {text[:60]!r} must be a finite number, got {number[:60]!r}.")
    return Chunk(text, weight)


def _inside(piece: str, depths: list[int]) -> list[int]:
    """The depths between the first bracket and the last, less one where both are one pair."""
    return depths[1:-1] if any(depths) else [0]


def _unescaped(text: str, separator: str) -> str:
    return text.replace("\\" + separator, separator).replace("\\:", ":")


def checked(vector: Tensor, what: str) -> Tensor:
    """The vector itself; DeprojectorError where it holds NaN or infinite values."""
    if not vector.isfinite().all():
        raise DeprojectorError(
            f"{what} holds NaN or infinite values. Check the weights in the text, and the CLIP's file."
        )
    return vector


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
    which for ``difference`` are the differences although the result is not one (as the author's code does);
    ``consistent`` scales what was summed. DeprojectorError where a length is zero or a number overflows.
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
            raise DeprojectorError("The mean needs weights that do not add up to zero.")
        total = total / sum(weights)
    if norm == "consistent":
        return checked(base + match_norm(total, _mean_norm(parts)), "The merged embedding")
    result = total + base if merge == "difference" else total
    if norm == "original":
        if torch.norm(result) == 0:
            raise DeprojectorError(
                "The texts add up to zero, which has no length to scale. Set norm to off or consistent."
            )
        result = result * (_mean_norm(parts) / torch.norm(result))
    return checked(result, "The merged embedding")


def _scaled(vector: Tensor, weight: float) -> Tensor:
    return vector if weight == 1.0 else weight * vector


def _mean_norm(vectors: Sequence[Tensor]) -> Tensor:
    return sum((torch.norm(vector) for vector in vectors[1:]), torch.norm(vectors[0])) / len(vectors)


def match_norm(vector: Tensor, length: Tensor | float) -> Tensor:
    """The vector with another length; a zero vector is returned as it is."""
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
    ``inverse @ (image - base) + null``: the difference from the neutral image, added to the empty text.
    """
    if image.shape[-1] != inverse.shape[1]:
        raise DeprojectorError(
            f"The image embedding has {image.shape[-1]} numbers, this deprojector needs {inverse.shape[1]}. "
            "Use the CLIP vision model ViT-L/14 (ViT-H gives 1024, ViT-bigG 1280)."
        )
    image = image.to(inverse)
    if base is None:
        return F.linear(image, inverse)
    return F.linear(image - base.to(inverse), inverse) + null.to(inverse)


def _one_of(what: str, given: str, available: Sequence[str]) -> None:
    if given not in available:
        raise DeprojectorError(f"Unknown {what} {given!r}. Available: {', '.join(available)}.")
