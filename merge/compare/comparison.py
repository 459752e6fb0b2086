"""How alike two models are, block by block."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ...blocks.keymap import block_of
from ...blocks.keys import EMA, OTHER, VAE_PART, part_of
from ...blocks.names import BASE, NO_LAYOUT, VAE, BlockError, Layout, layout_of
from ..errors import MergeError
from ..files.checkpoint import Checkpoint

PIECE = 1 << 20
Tick = Callable[[int], None]


@dataclass
class Likeness:
    """Sums over the tensors of one block, taken as one long vector per model.

    Elements that are NaN or infinite in a model are counted (``odd``) and left out of the sums.
    """

    numel: int = 0
    odd: int = 0
    changed: int = 0
    dot: float = 0.0
    norm_a: float = 0.0
    norm_b: float = 0.0
    distance: float = 0.0
    largest: float = 0.0

    def add(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Take in a part of both models (float64 sums)."""
        self.numel += a.numel()
        a, b = a.double(), b.double()
        finite = a.isfinite() & b.isfinite()
        if not finite.all():
            self.odd += int((~finite).sum())
            a, b = a[finite], b[finite]
        if not a.numel():
            return
        difference = b - a
        self.changed += int((difference != 0).sum())
        self.dot += float(a @ b)
        self.norm_a += float(a @ a)
        self.norm_b += float(b @ b)
        self.distance += float(difference @ difference)
        self.largest = max(self.largest, float(difference.abs().max()))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two vectors: 1 is the same direction."""
        if self.distance == 0:
            return 1.0
        norms = math.sqrt(self.norm_a * self.norm_b)
        return self.dot / norms if norms else 0.0

    @property
    def relative(self) -> float:
        """|B - A| / |A|."""
        if self.distance == 0:
            return 0.0
        return math.sqrt(self.distance / self.norm_a) if self.norm_a else math.inf


@dataclass(frozen=True)
class Comparison:
    """The likeness of two models per block, and the keys that could not be compared."""

    names: tuple[str, str]
    layout: Layout
    blocks: dict[str, Likeness]
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One line per block: parameters, cosine similarity, relative distance, changed share, largest change."""
        a, b = self.names
        lines = [
            f"A: {a}",
            f"B: {b}",
            f"{'block':<10} {'params':>13} {'cosine':>10} {'|B-A|/|A|':>10} {'changed':>8} {'max |B-A|':>10}",
        ]
        for name, found in [*self.blocks.items(), ("all", self.total())]:
            changed = found.changed / found.numel if found.numel else 0.0
            lines.append(
                f"{name:<10} {found.numel:>13,} {found.cosine:>10.6f} {found.relative:>10.6f} "
                f"{changed:>8.2%} {found.largest:>10.3g}"
            )
        for what, keys in (
            ("only in A", self.only_a),
            ("only in B", self.only_b),
            ("other shape", self.shapes),
        ):
            if keys:
                lines.append(f"{what}: {len(keys)} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})")
        odd = [f"{found.odd} in {name}" for name, found in self.blocks.items() if found.odd]
        if odd:
            lines.append(f"NaN or infinity, left out of these numbers: {', '.join(odd)}")
        return "\n".join(lines)

    def total(self) -> Likeness:
        """All blocks as one vector."""
        total = Likeness()
        for found in self.blocks.values():
            for name in ("numel", "odd", "changed", "dot", "norm_a", "norm_b", "distance"):
                setattr(total, name, getattr(total, name) + getattr(found, name))
            total.largest = max(total.largest, found.largest)
        return total


def compare(a: Checkpoint, b: Checkpoint, key_map: str = "mbw", tick: Tick = lambda done: None) -> Comparison:
    """Compare two models block by block, reading both piece by piece; the VAE is a block of its own.

    ``tick`` is told the bytes of A looked at. MergeError when they share no tensors, or are of other layouts.
    """
    layout, other = _layout(a), _layout(b)
    if layout is not None and other is not None and layout != other:
        raise MergeError(
            f"{a.name} is {layout.describe()}, {b.name} is {other.describe()}. They have no blocks in common. "
            "Compare models of one architecture."
        )
    layout = layout or other or NO_LAYOUT
    result = Comparison((a.name, b.name), layout, {})
    result.only_b.extend(key for key in b.entries if key not in a.entries)
    found: dict[str, Likeness] = {}
    for key, entry in a.entries.items():
        if key not in b.entries:
            result.only_a.append(key)
        elif b.entries[key].shape != entry.shape:
            result.shapes.append(key)
        elif entry.dtype.is_floating_point and part_of(key) not in (EMA, OTHER):
            _add(found.setdefault(_block(key, layout, key_map), Likeness()), a, b, key)
            tick(entry.nbytes)
    if not found:
        raise MergeError(f"{a.name} and {b.name} have no tensors in common. Compare models of one kind.")
    order = [BASE, "CLIP", *layout.blocks, VAE]
    names = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
    result.blocks.update({name: found[name] for name in names})
    return result


def _add(likeness: Likeness, a: Checkpoint, b: Checkpoint, key: str) -> None:
    numel = a.entries[key].numel
    step = PIECE if a.divisible(key) and b.divisible(key) else max(1, numel)
    for start in range(0, numel, step):
        stop = min(start + step, numel)
        x, y = a.read(key, start, stop), b.read(key, start, stop)
        for part_a, part_b in zip(x.split(PIECE), y.split(PIECE), strict=True):
            likeness.add(part_a, part_b)


def _block(key: str, layout: Layout, key_map: str) -> str:
    if part_of(key) == VAE_PART:
        return VAE
    return (block_of(key, layout, key_map) if layout.blocks else None) or BASE


def _layout(checkpoint: Checkpoint) -> Layout | None:
    try:
        return layout_of(checkpoint.entries)
    except BlockError:
        return None
