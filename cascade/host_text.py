"""Prompts of IF stages: T5's states as CONDITIONING, kept for the next run, and the style prompt."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

from .caption import clean_caption
from .host_model import POOLED_TEXT

KEPT_TEXTS = 256  # 630 kB each for T5 XXL in 16 bits, 1.3 MB in 32
EMBEDDING = "embedding:"


def encode(clip: Any, text: str, clean: bool = False) -> Any:
    """CONDITIONING of a prompt; ``clean`` applies IF's caption cleaning, which ends weights syntax."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(clean_caption(text) if clean else text))


def with_pooled_text(content: Any, style: Any) -> Any:
    """A copy of the ``content`` CONDITIONING whose pooled embedding comes from the ``style`` prompt."""
    return [[text, {**options, POOLED_TEXT: style[0][0]}] for text, options in content]


class TextCache:
    """T5's states of the texts of earlier runs, by file, its time stamp and size, settings, and text.

    A text that names an embedding is never kept, because the embedding's file may change.
    """

    def __init__(self, capacity: int = KEPT_TEXTS):
        self.capacity = capacity
        self._kept: OrderedDict[tuple, Any] = OrderedDict()

    def find(self, path: str, settings: tuple, texts: list[str]) -> dict[str, Any]:
        """The CONDITIONING of each of ``texts`` that is kept for the file as it is now."""
        found = {}
        for text in texts:
            key = self._key(path, settings, text)
            if key in self._kept:
                self._kept.move_to_end(key)
                found[text] = self._kept[key]
        return found

    def keep(self, path: str, settings: tuple, encoded: dict[str, Any]) -> None:
        """Keep ``encoded`` (CONDITIONING by text); the texts used longest ago are dropped."""
        for text, conditioning in encoded.items():
            if EMBEDDING not in text:
                self._kept[self._key(path, settings, text)] = conditioning
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)

    @staticmethod
    def _key(path: str, settings: tuple, text: str) -> tuple:
        status = Path(path).stat()
        return (path, status.st_mtime_ns, status.st_size, settings, text)
