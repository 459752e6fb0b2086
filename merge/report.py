"""What a merge did with every key, in words a user can read."""

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field

SHOWN = 4


@dataclass
class Report:
    """Counts of keys by what became of them, and remarks; several threads may add to it."""

    title: str
    counts: Counter[str] = field(default_factory=Counter)
    listed: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    elements: Counter[tuple[str, str]] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, what: str) -> None:
        """One more key of an ordinary kind."""
        self.counts[what] += 1

    def list(self, why: str, key: str) -> None:
        """A key that was treated out of the ordinary."""
        self.listed[why].append(key)

    def add_elements(self, what: str, key: str, number: int) -> None:
        """Elements of a key that something happened to while it was computed."""
        with self._lock:
            self.elements[what, key] += number

    def text(self) -> str:
        """The report, one thing per line."""
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        lines = [f"{self.title}: {counts or 'nothing'}"]
        for why, keys in self.listed.items():
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            lines.append(f"- {why}: {len(keys)} ({', '.join(keys[:SHOWN])}{more})")
        by_kind: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (what, key), number in sorted(self.elements.items()):
            by_kind[what][key] = number
        for what, keys in by_kind.items():
            shown = ", ".join(f"{key}: {number}" for key, number in list(keys.items())[:SHOWN])
            lines.append(f"- {what}: {sum(keys.values())} elements in {len(keys)} tensors ({shown})")
        return "\n".join([*lines, *(f"- {remark}" for remark in self.remarks)])
