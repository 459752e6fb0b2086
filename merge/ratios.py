"""Which ratios a tensor gets: block weights, text encoder and VAE, and selectors of single tensors.

A ratio has a value for a tensor where its text names the tensor: by a list, a block, a name outside the blocks, one
number for everything, or a selector. "Not named" is not the number 0: a tensor that no text names stays A's.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..blocks import weights
from ..blocks.bypass import last_layers
from ..blocks.keymap import block_of
from ..blocks.keys import PREFIXES, TEXT, UNET, VAE_PART, part_of
from ..blocks.names import BASE, CLIP, NO_LAYOUT, T5, VAE, BlockError, Layout, layout_of
from ..blocks.numbers import is_number
from ..blocks.weights import BlockWeights
from . import elemental
from .errors import MergeError
from .methods import Method

Read = Callable[..., BlockWeights]  # (text, layout, bypass=...)


BYPASSING = "scale"  # the method under which a text may bypass blocks


class Source(Protocol):
    """A table of tensors: what a planner looks at of a model."""

    @property
    def name(self) -> str: ...
    @property
    def entries(self) -> Mapping[str, Any]:
        """Tensors, or anything else with ``dtype`` and ``shape``, by key."""
        ...


class Ratios:
    """The ratios of a merge, per tensor.

    One number counts for U-Net, BASE and text encoder; a list or preset for the blocks it names. The text encoder
    follows BASE unless CLIP (or T5) is given; the VAE stays A's unless VAE is given: averaged VAEs make dark, blurred
    images. ``whole`` is the name of a model that has one ratio for all its tensors (a VAE), or gives a name for each
    tensor (the text encoders of a CLIP).
    """

    def __init__(
        self,
        method: Method,
        texts: Sequence[tuple[str, str]],
        layout: Layout,
        *,
        key_map: str = "mbw",
        selectors: str = "",
        read: Read = weights.parse,
        whole: str | Callable[[str], str] | None = None,
        labels: Mapping[str, str] | None = None,
    ):
        self.method, self.layout, self.key_map, self.whole = method, layout, key_map, whole
        self.texts: dict[str, BlockWeights] = {}
        for name, text in texts:
            try:
                self.texts[name] = read(text, layout, bypass=method.name == BYPASSING)
            except BlockError as error:
                raise BlockError(f"{(labels or {}).get(name, name)}: {error}") from None
        self.elemental = elemental.parse_selectors(selectors, layout)
        self._first = next(iter(self.texts))
        self._found: dict[str, Mapping[str, float] | None] = {}
        self._used: set[str] = set()
        self._selected: list[tuple[str, str]] = []
        self._off = frozenset(block for weights_ in self.texts.values() for block in weights_.off)
        self._silenced: frozenset[str] = frozenset()

    def look_at(self, keys: Iterable[str]) -> dict[str, int]:
        """Find the last layers of the blocks to bypass; block -> how many. BlockError for those without one."""
        if not self._off:
            return {}
        wanted = [block for block in self.layout.blocks if block in self._off]
        found = last_layers(keys, self.layout, wanted)
        self._silenced = frozenset(key for layers in found.values() for key in layers)
        return {block: len(layers) for block, layers in found.items()}

    def of(self, key: str) -> tuple[str | None, Mapping[str, float] | None]:
        """The block that a tensor is weighted with and its ratios by name.

        The block is None when the key map never merges the tensor, the ratios are None when no text names it.
        """
        part = part_of(key)
        if self.whole or part == VAE_PART:
            block = place = (self.whole(key) if callable(self.whole) else self.whole) or VAE
        else:
            block = BASE if self.layout is NO_LAYOUT else block_of(key, self.layout, self.key_map)
            if block is None:
                return None, None
            place = self._text_encoder(key) if part == TEXT else block
            if place in self._off:
                return place, {self._first: 0.0} if key in self._silenced else self.method.identity
        if place not in self._found:
            self._found[place] = self._completed(self._named(place))
        if self.elemental.entries and part != VAE_PART:
            self._selected.append((full_name(key), block))
            chosen = self.elemental.ratio(*self._selected[-1])
            if chosen is not None:
                return place, self._completed({**self._named(place), self._first: chosen})
        return place, self._found[place]

    def _text_encoder(self, key: str) -> str:
        is_t5 = "t5" in key.partition(".transformer.")[0]
        return T5 if is_t5 and any(T5 in dict(read.extra) for read in self.texts.values()) else CLIP

    def _named(self, block: str) -> dict[str, float]:
        """The ratios whose texts name a block, or a name outside the blocks."""
        block = BASE if isinstance(self.whole, str) else block
        self._used |= {used for read in self.texts.values() for used in _names_behind(read, block)}
        return {name: read.of(block, 0.0) for name, read in self.texts.items() if read.is_named(block)}

    def _completed(self, named: Mapping[str, float]) -> Mapping[str, float] | None:
        """All ratios of the method: those not named get the value that leaves A as it is, where there is one."""
        if not named:
            return None
        found = dict(named)
        complement = self.method.complement
        if complement and complement[0] not in self.texts and complement[1] in found:
            found[complement[0]] = 1 - found[complement[1]]
        for name in self.method.ratios:
            if name not in found:
                if name not in (self.method.identity or {}):
                    return None
                found[name] = (self.method.identity or {})[name]
        return found

    def unused(self) -> list[str]:
        """The names outside the blocks that a text gives a weight and that no tensor looked up is in."""
        given = {name for read in self.texts.values() for name, _ in read.extra}
        return sorted(given - self._used)

    def unused_selectors(self) -> list[str]:
        """The numbers, from 1, of the selectors that match no tensor looked up."""
        return list(map(str, self.elemental.unused(self._selected)))


def _names_behind(read: BlockWeights, block: str) -> set[str]:
    """The name in ``read.extra`` that decides a block's weight, if any."""
    extra = dict(read.extra)
    if block in read.layout.index:
        return set()
    if block in extra:
        return {block}
    return {BASE} & extra.keys() if block != VAE else set()


def full_name(key: str) -> str:
    """The key as a checkpoint names it, so that selectors and seeds mean the same live and in a file."""
    return f"model.{key}" if key.startswith("diffusion_model.") else key


def written_out(
    name_text: tuple[str, str], table: Ratios, own_presets: Container[str] = ()
) -> tuple[str, str]:
    """A ratio's text for a recipe that is kept: presets of the user, which mean nothing elsewhere, as numbers."""
    name, text = name_text
    own = any(item.strip() in own_presets for item in text.split(","))
    return name, table.texts[name].text() if own else text


def common_layout(sources: Sequence[Source], texts: Sequence[str]) -> Layout:
    """The layout that all sources share; MergeError when they are of different kinds.

    Models without numbered blocks (text encoders, VAEs, ...) can be merged with one number for everything.
    """
    first = sources[0]
    try:
        layout = layout_of(first.entries)
    except BlockError as error:
        if all(is_number(text) for text in texts):
            return NO_LAYOUT
        raise MergeError(f"{first.name}: {error}") from None
    for other in sources[1:]:
        if not any(key.startswith(PREFIXES[UNET]) for key in other.entries):
            continue
        found = layout if other.entries.keys() == first.entries.keys() else layout_of(other.entries)
        if found != layout:
            raise MergeError(
                f"{first.name} is {layout.describe()}, {other.name} is {found.describe()}. "
                "Models of different architectures cannot be merged."
            )
    return layout
