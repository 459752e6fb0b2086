"""What was found as text and image: weights for the deck, a recipe, a report, bars in the shape of the model."""

import numpy as np
import torch

from ...blocks.drawing import draw_weights
from ...blocks.names import BASE, NO_LAYOUT
from ...blocks.weights import BlockWeights
from ..recipe.grammar import to_text
from ..recipe.items import node_line
from ..recipe.model import Line, Recipe
from .finding import Found
from .nearest import describe

DIGITS = 4
SAME = 2e-3  # shares that differ by less are equal
COARSE = 0.05  # a share that can be further off is pointed out
DTYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
}


def weights_of(found: Found, candidate: int) -> BlockWeights:
    """The share of one candidate (0 is A) per block, rounded to four digits."""
    shares = {name: round(shares.shares[candidate], DIGITS) + 0.0 for name, shares in found.blocks.items()}
    if found.layout is NO_LAYOUT:
        return BlockWeights(NO_LAYOUT, (), ((BASE, shares.get(BASE, 0.0)),))
    blocks = found.layout.blocks
    kept = 1.0 if candidate == 0 else 0.0
    extra = tuple((name, share) for name, share in shares.items() if name not in found.layout.index)
    return BlockWeights(found.layout, tuple(shares.get(block, kept) for block in blocks), extra)


def weights_text(found: Found) -> str:
    """One weights text per further candidate, a line each: the share of B, then of C and so on."""
    return "\n".join(weights_of(found, number).text() for number in range(1, len(found.candidates)))


def recipe_text(found: Found, name: str = "found") -> str:
    """The merge as a recipe: a weighted sum of two, or a chain of sums of more."""
    settings = {"key_map": found.key_map}
    names, texts = (
        found.candidates,
        [weights_of(found, number).text() for number in range(len(found.candidates))],
    )
    lines: list[Line] = []
    if len(names) == 2:
        lines.append(node_line(name, names, "weighted_sum", {"alpha": texts[1]}, "", **settings))
    else:
        one = {"m_a": texts[0], "m_b": texts[1]}
        lines.append(node_line(f"{name}_1", names[:2], "each", one, "", **settings))
        ones = weights_of(found, 0)
        kept = BlockWeights(
            ones.layout, (1.0,) * len(ones.values), tuple((extra, 1.0) for extra, _ in ones.extra)
        )
        for number in range(2, len(names)):
            output = name if number == len(names) - 1 else f"{name}_{number}"
            more = {"m_a": kept.text(), "m_b": texts[number]}
            models = (f"__O{number - 1}__", names[number])
            lines.append(node_line(output, models, "each", more, "", **settings))
    return to_text(Recipe(tuple(lines)))


def images(found: Found) -> np.ndarray:
    """The share of each further candidate as bars in the shape of the model: float32 ``b h w c`` in 0..1."""
    return np.stack([draw_weights(weights_of(found, number)) for number in range(1, len(found.candidates))])


def report(found: Found) -> str:
    """The verdict in sentences, then one line per block: shares, sum of the free shares, what is left, what rounding explains."""
    letters = [chr(ord("A") + number) for number in range(len(found.candidates))]
    lines = [f"Merge: {found.merge}"]
    lines += [f"{letter}: {name}" for letter, name in zip(letters, found.candidates, strict=True)]
    lines += ["", *_verdict(found, letters), ""]
    head = " ".join(f"{letter:>8}" for letter in letters)
    lines.append(f"{'block':<10} {head} {'+-':>7} {'free sum':>9} {'left':>9} {'rounding':>9}")
    for name, shares in found.blocks.items():
        numbers = " ".join(f"{share:>8.4f}" for share in shares.shares)
        alike = "; ".join(" and ".join(letters[i] for i in group) + " are alike" for group in shares.alike)
        note = ", ".join(filter(None, ["" if shares.fits else "does not fit", alike]))
        lines.append(
            f"{name:<10} {numbers} {shares.error:>7.4f} {sum(shares.free):>9.4f} {shares.residual:>9.2e} {shares.explained:>9.2e}"
            + (f"  {note}" if note else "")
        )
    lines += [
        "",
        "+-: how far rounding the merge can move the shares at most, in blocks that fit.",
        "left: |merge - sum of shares| / |merge|. rounding: the most that rounding to the stored data types can leave.",
    ]
    for why, keys in found.left_out.items():
        lines.append(
            f"Left out, {why}: {len(keys)} tensors ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        )
    if found.odd:
        lines.append(
            f"NaN or infinity, left out: {', '.join(f'{count} in {name}' for name, count in found.odd.items())}"
        )
    return "\n".join(lines)


def _verdict(found: Found, letters: list[str]) -> list[str]:
    bad = [name for name, shares in found.blocks.items() if not shares.fits]
    lines = []
    if bad:
        lines.append(
            f"A parent is missing, or another method was used: in {len(bad)} of {len(found.blocks)} blocks "
            f"({_some(bad)}) more is left than rounding explains. The shares of these blocks are only the nearest ones."
        )
        free = [name for name in bad if found.blocks[name].fits_free]
        if free:
            lines.append(
                f"In {_some(free)} shares fit whose sum is not 1. The method may be M_A A + M_B B, or SLERP."
            )
        lines += describe(found.nearest, letters)
    else:
        lines.append("The candidates explain every block: what is left is within rounding.")
    lines += _differences(found, letters)
    coarse = [name for name, shares in found.blocks.items() if shares.error > COARSE]
    if coarse:
        worst = max(found.blocks[name].error for name in coarse)
        lines.append(
            f"The candidates differ by little more than rounding in {len(coarse)} of {len(found.blocks)} blocks "
            f"({_some(coarse)}): rounding can move shares by up to {worst:.2g}."
        )
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, shares in found.blocks.items():
        for group in shares.alike:
            groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        lines.append(
            f"{' and '.join(letters[i] for i in group)} are too alike to tell apart in {len(names)} of "
            f"{len(found.blocks)} blocks ({_some(names)}): only what they have together is known there."
        )
    return lines


def _differences(found: Found, letters: list[str]) -> list[str]:
    """The blocks whose shares are those of add difference: one is 1, two others cancel."""
    groups: dict[tuple[int, int, int], list[str]] = {}
    for name, block in found.blocks.items():
        near, shares = max(SAME, block.error), list(enumerate(block.shares))
        one = [place for place, share in shares if abs(share - 1) < near][:1]
        plus = [place for place, share in shares if share > near and place not in one]
        minus = [place for place, share in shares if share < -near]
        if not block.fits or not one or len(plus) != 1 or len(minus) != 1:
            continue
        if abs(block.shares[plus[0]] + block.shares[minus[0]]) < 2 * near:
            groups.setdefault((one[0], plus[0], minus[0]), []).append(name)
    return [
        f"In {_some(names)} the shares are those of add difference: {letters[a]} + alpha ({letters[b]} - {letters[c]})."
        for (a, b, c), names in groups.items()
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
