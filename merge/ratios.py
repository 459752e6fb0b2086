"""Which ratio a key gets: block weights, text encoder and VAE apart, elemental ratios on top."""

from collections.abc import Container, Mapping, Sequence

from ..blocks import weights
from ..blocks.keymap import CLIP, block_of
from ..blocks.keys import PREFIXES, TEXT, UNET, VAE_PART
from ..blocks.names import BASE, NO_LAYOUT, VAE, BlockError, Layout, layout_of
from ..blocks.numbers import is_number
from . import elemental
from .errors import MergeError
from .files.checkpoint import Checkpoint
from .methods import Method
from .recipe.grammar import Line


def neutral(method: Method, name: str) -> float:
    """The value of a ratio that leaves A as it is: 1 where the method passes A at 1, else 0."""
    for condition, index in method.passes:
        if index == 0 and name in condition:
            return condition[name]
    return 0.0


class RatioTable:
    """The ratios of a line, per key.

    One number counts for U-Net, BASE and text encoder alike; a list or preset for the blocks it names, the rest
    stays A's unless BASE says otherwise. The text encoder follows BASE unless CLIP is given; the VAE stays
    A's unless VAE is given: averaged VAEs make dark, blurred pictures.
    """

    def __init__(
        self,
        line: Line,
        method: Method,
        layout: Layout,
        own_presets: Mapping[str, Sequence[float]] | None = None,
    ):
        self.layout, self.key_map = layout, line.key_map
        self.ratios: dict[str, tuple[weights.BlockWeights, float, float]] = {}
        for name, text in line.ratios:
            rest = neutral(method, name)
            try:
                read = weights.parse(text, layout, default=rest, own_presets=own_presets)
            except BlockError as error:
                raise BlockError(f"{line.output}, {name}: {error}") from None
            base = dict(read.extra).get(BASE, _flat(text, rest))
            self.ratios[name] = (read, base, rest)
        self.elemental = elemental.parse_selectors(line.elemental, layout)
        self.written_out = tuple(
            (name, self.ratios[name][0].text() if _names_any(text, own_presets or {}) else text)
            for name, text in line.ratios
        )  # a user's own preset means nothing elsewhere: a recipe that is kept holds its numbers
        self.first, self.complement = next(iter(self.ratios)), method.complement

    def of(self, key: str, part: str) -> dict[str, float] | None:
        """Ratios of a key by name, or None when the key map never merges it."""
        if self.layout is NO_LAYOUT:
            block = BASE
        else:
            block = block_of(key, self.layout, self.key_map)
        if block is None and part != VAE_PART:
            return None
        found = {name: self._one(name, part, block or VAE) for name in self.ratios}
        if part != VAE_PART:  # `::0.5` means every element of what is merged
            found[self.first] = self.elemental.ratio(key, block or BASE, found[self.first])
        if self.complement and self.complement[0] not in found:
            found[self.complement[0]] = 1 - found[self.complement[1]]
        return found

    def _one(self, name: str, part: str, block: str) -> float:
        read, base, rest = self.ratios[name]
        extra = dict(read.extra)
        if part == VAE_PART:
            return extra.get(VAE, rest)
        if part == TEXT:
            return extra.get(CLIP, base)
        return read.of(block, base)


def _flat(text: str, otherwise: float) -> float:
    """The number a text starts with when it is one for the whole model (``0.5``, ``0.5, VAE=1``), not a list."""
    first, *rest = text.split(",")
    alone = is_number(first) and not any(is_number(item) for item in rest)
    return float(first) if alone else otherwise


def _names_any(text: str, names: Container[str]) -> bool:
    return any(item.strip() in names for item in text.split(","))


def common_layout(line: Line, sources: Sequence[Checkpoint]) -> Layout:
    """The U-Net layout all sources share; MergeError when they are of different kinds.

    Models without such a U-Net (text encoders, transformers, ...) can be merged with one number for everything.
    """
    try:
        layout = layout_of(sources[0].entries)
    except BlockError as error:
        if all(is_number(text) for _, text in line.ratios):
            return NO_LAYOUT
        raise MergeError(f"{sources[0].name}: {error}; one number for the whole model works on any") from None
    for other in sources[1:]:
        has_unet = any(key.startswith(PREFIXES[UNET]) for key in other.entries)
        if has_unet and layout_of(other.entries) != layout:
            raise MergeError(
                f"{sources[0].name} is {layout.name} and {other.name} is {layout_of(other.entries).name}; "
                "models of different architectures cannot be merged"
            )
    return layout


def merges(part: str, layout: Layout) -> bool:
    """Whether keys of this part are merged at all; EMA copies, schedules and markers stay A's."""
    return part in (UNET, TEXT, VAE_PART) or layout is NO_LAYOUT
