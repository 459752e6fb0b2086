"""Reading a model from its moving average."""

from torch import Tensor

from ...blocks.keys import UNET, ema_key, part_of
from .checkpoint import Checkpoint, Stored


class EmaSwapped:
    """A checkpoint whose U-Net is read from its moving average; what has none is read as it is."""

    def __init__(self, inner: Checkpoint):
        self.inner, self.name, self.entries = inner, inner.name, inner.entries

    def _key(self, key: str) -> str:
        average = ema_key(key)
        same = average in self.entries and self.entries[average].shape == self.entries[key].shape
        return average if part_of(key) == UNET and same else key

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.inner.read(self._key(key), start, stop)

    def divisible(self, key: str) -> bool:
        return self.inner.divisible(self._key(key))

    def stored(self, key: str) -> Stored | None:
        return self.inner.stored(self._key(key))
