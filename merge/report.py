"""What a merge does with every tensor, as text: one form for live merges and for files."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SHOWN = 12  # names printed per reason


def letter(number: int) -> str:
    """What a report calls the model at a place: A, B, ... Z, then ``model 27``."""
    return chr(ord("A") + number) if number < 26 else f"model {number + 1}"


def shown(key: str) -> str:
    """A key as reports print it: ComfyUI's own name, which is the same live and in a file."""
    return key.removeprefix("model.") if key.startswith("model.diffusion_model.") else key


def some(keys: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(map(shown, keys[:SHOWN])) + more


@dataclass
class Report:
    """Counts of tensors by what is done to them, and remarks; several threads may add to it."""

    title: str
    sources: tuple[str, ...] = ()  # the names of A, B, ... where they have any
    merged: int = 0
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    blocks: dict[str, Counter[str]] = field(default_factory=dict)
    parameters: Counter[tuple[str, str]] = field(default_factory=Counter)
    all_parameters: int = 0
    listed: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    elements: Counter[tuple[str, str]] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, why: str, number: int = 1) -> None:
        """More tensors of a kind that needs no names."""
        self.counts[why] += number

    def in_block(self, block: str, ratios: str, parameters: int = 0) -> None:
        """One more tensor of a block, with its ratios and its number of parameters."""
        if block not in self.blocks:
            self.blocks[block] = Counter()
        self.blocks[block][ratios] += 1
        self.parameters[block, ratios] += parameters

    def list(self, why: str, key: str) -> None:
        """A tensor with a reason that names it."""
        self.listed[why].append(key)

    def add_elements(self, what: str, key: str, number: int) -> None:
        """Elements of a tensor that something happened to while it was computed."""
        with self._lock:
            self.elements[what, key] += number

    def remark(self, text: str) -> None:
        """A sentence about the whole merge."""
        with self._lock:
            self.remarks.append(text)

    def order(self, blocks: Iterable[str]) -> None:
        """Sort the lines of the blocks into this order."""
        places = {name: place for place, name in enumerate(blocks)}
        last = len(places)
        self.blocks = dict(sorted(self.blocks.items(), key=lambda item: places.get(item[0], last)))

    def _share(self, block: str, ratios: str) -> str:
        """The share of the parameters of all tensors, for the report."""
        if not self.all_parameters:
            return ""
        return f", {100 * self.parameters[block, ratios] / self.all_parameters:.3g} % of the parameters"

    def text(self) -> str:
        """The report, one thing per line."""
        lines = [f"{self.title}: {self.merged} of {self.total} tensors merged."]
        if self.sources:
            lines.append("; ".join(f"{letter(i)}: {name}" for i, name in enumerate(self.sources)))
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        for block, sizes in self.blocks.items():
            lines += [
                f"  {block:<10} {ratios}  ({size} tensors{self._share(block, ratios)})"
                for ratios, size in sizes.items()
            ]
        lines += [f"- {why}: {number}" for why, number in self.counts.items() if number]
        lines += [f"- {why}: {len(keys)} ({some(keys)})" for why, keys in self.listed.items()]
        by_kind: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (what, key), number in sorted(self.elements.items()):
            by_kind[what][key] = number
        for what, keys in by_kind.items():
            names = some([f"{shown(key)}: {number}" for key, number in keys.items()])
            lines.append(f"- {what}: {sum(keys.values())} elements in {len(keys)} tensors ({names})")
        return "\n".join([*lines, *(f"- {remark}" for remark in self.remarks)])
