"""Elemental ratios: supermerger's selector language, ``Blocks:Elements:Ratio``.

``OUT03 OUT04:attn2 attn1.to_out:0.5, IN00-IN11::0.2, NOT M00:NOT attn:0`` - entries are separated by commas or
newlines; a field is a list of words separated by spaces; ``NOT`` first turns a field round; ``A-B`` is a range
of blocks; an empty field matches everything; a block's name matches that block, another word when it occurs in the key
followed by its block's name, but ``attn``, ``mlp``, ``mod``, ``img`` and ``txt`` match whole names below the block
(``img_attn`` has the names img and attn, ``attn2`` the name attn); of all entries that match, the last wins. Source:
supermerger mergers.py and its elemental guide. Unlike supermerger, a malformed entry is an error, and SDXL keys carry
SDXL block names (supermerger indexes them with the SD1 table, its issue 468).
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ..blocks.names import BASE, VAE, Layout
from .errors import MergeError

WHOLE = frozenset(("attn", "mlp", "mod", "img", "txt"))  # as substrings, mod would match every ``model.`` key


@dataclass(frozen=True)
class Field:
    """A list of words, one of which must occur (or, negated, none may)."""

    words: tuple[str, ...]
    negated: bool = False
    whole: frozenset[str] = frozenset()

    def matches(self, text: str, names: Collection[str]) -> bool:
        """Whether the text is selected; words of ``whole`` must be among ``names``, others in the text."""
        found = any(word in (names if word in self.whole else text) for word in self.words)
        return found != self.negated


@dataclass(frozen=True)
class Selector:
    """One ``Blocks:Elements:Ratio``."""

    blocks: Field
    elements: Field
    ratio: float

    def matches(self, key: str, block: str) -> bool:
        """Whether the entry names a key that is in ``block``."""
        tagged = key + block
        return self.blocks.matches(tagged, (block,)) and self.elements.matches(tagged, names_below(key))


@dataclass(frozen=True)
class Elemental:
    """All entries of a selector text, for one layout."""

    entries: tuple[Selector, ...] = ()

    def ratio(self, key: str, block: str, otherwise: float | None = None) -> float | None:
        """The ratio of a key that is in ``block``: the last matching entry's, or ``otherwise``."""
        chosen = otherwise
        for entry in self.entries:
            if entry.matches(key, block):
                chosen = entry.ratio
        return chosen

    def unused(self, keys: Iterable[tuple[str, str]]) -> list[int]:
        """The numbers, from 1, of the entries that match none of these keys, each given with its block."""
        given = list(keys)
        return [
            number
            for number, entry in enumerate(self.entries, start=1)
            if not any(entry.matches(key, block) for key, block in given)
        ]


def names_below(key: str) -> frozenset[str]:
    """The names in a key below its block: ``img``, ``attn``, ``qkv``, ``weight`` for ``...3.img_attn.qkv.weight``."""
    parts = key.split(".")
    start = next((place + 1 for place, part in enumerate(parts) if part.isdecimal()), 0)
    words = (word for part in parts[start:] for word in part.split("_"))
    return frozenset(word.rstrip("0123456789") or word for word in words)


def parse_selectors(text: str, layout: Layout) -> Elemental:
    """Read a selector text; MergeError quotes the entry that cannot be read."""
    return Elemental(
        tuple(
            Selector(_field(_ranges(blocks, layout), layout.index), _field(elements.split(), WHOLE), ratio)
            for blocks, elements, ratio in _entries(text)
        )
    )


def check_selectors(text: str) -> None:
    """What can be checked before a model is known: the fields and the ratio of each entry; MergeError as above."""
    for _ in _entries(text):
        pass


def _entries(text: str) -> Iterator[tuple[str, str, float]]:
    """Blocks, elements and ratio of each entry."""
    for raw in text.replace("\n", ",").split(","):
        entry = raw.strip()
        if not entry:
            continue
        parts = entry.split(":")
        if len(parts) != 3:
            raise MergeError(
                f"The elemental entry {quote(entry)} has {len(parts)} fields. Expected Blocks:Elements:Ratio. "
                "Write it as in OUT03 OUT04:attn2:0.5."
            )
        blocks, elements, ratio = (part.strip() for part in parts)
        yield blocks, elements, _ratio(ratio, entry)


def _field(words: list[str], whole: Collection[str]) -> Field:
    negated = words[:1] == ["NOT"]
    return Field(tuple(words[negated:]) if words else ("",), negated, frozenset(whole))


def _ranges(text: str, layout: Layout) -> list[str]:
    """The words with ranges written out; a range may run either way."""
    order = [BASE, *layout.blocks, VAE]
    words = []
    for word in text.split():
        first, dash, last = word.partition("-")
        if not dash:
            words.append(word)
            continue
        if first not in order or last not in order:
            raise MergeError(
                f"{quote(word)} is not a range of blocks of {layout.name}. Available: {', '.join(order)}."
            )
        low, high = sorted((order.index(first), order.index(last)))
        words += order[low : high + 1]
    return words


def _ratio(text: str, entry: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = float("nan")
    if not abs(ratio) < float("inf"):
        raise MergeError(
            f"{quote(text)} is not a finite number. Given in the elemental entry {quote(entry)}."
        )
    return ratio


def quote(text: str) -> str:
    """A text for a message, cut where it is long."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
