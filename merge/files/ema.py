"""Reading a model from its moving average."""

from collections.abc import Mapping

from torch import Tensor

from ...blocks.keys import UNET, ema_key, part_of
from .checkpoint import Checkpoint, Stored
from .header import Entry


class EmaSwapped:
    """A checkpoint whose U-Net is its moving average, in the dtype of the average: as a file whose U-Net is that.

    Tensors without an average of their shape are read as they are; ``lacking`` lists those of the U-Net.
    """

    def __init__(self, inner: Checkpoint):
        self.inner, self.name = inner, inner.name
        self._averages: dict[str, str] = {}
        self.lacking: list[str] = []
        for key, entry in inner.entries.items():
            if part_of(key) != UNET:
                continue
            average = ema_key(key)
            if average in inner.entries and inner.entries[average].shape == entry.shape:
                self._averages[key] = average
            else:
                self.lacking.append(key)
        swapped = {key: inner.entries[average] for key, average in self._averages.items()}
        self.entries: Mapping[str, Entry] = {**inner.entries, **swapped}

    def key_inside(self, key: str) -> str:
        """The key of the checkpoint that a key is read from."""
        return self._averages.get(key, key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.inner.read(self.key_inside(key), start, stop)

    def divisible(self, key: str) -> bool:
        return self.inner.divisible(self.key_inside(key))

    def stored(self, key: str) -> Stored | None:
        return self.inner.stored(self.key_inside(key))
