"""Core's ModelMerge node for a model: which tensors it has no slider for, and so gives the ratio of its first slider."""

import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

from comfy_extras import nodes_model_merging_model_specific as specific

_NUMBERED = re.compile(r"\.\d+\.?$|\.block\d+\.?$")


def remark(keys: Iterable[str]) -> str:
    """A sentence on what core's node for these keys does otherwise; empty where it does nothing otherwise."""
    return _remark(tuple(keys))


@lru_cache(maxsize=16)
def _remark(keys: tuple[str, ...]) -> str:
    """Found once per model: the keys are compared with the sliders of every node."""
    names = [key.partition("diffusion_model.")[2] for key in keys]
    in_order = sorted(names)
    found = max(((_fit(sliders, in_order), node, sliders) for node, sliders in _nodes()), default=None)
    if found is None or found[0][0] < 0:
        return ""
    _, node, sliders = found
    left = [name for name in names if not name.startswith(tuple(sliders))]
    if not left:
        return ""
    places = ", ".join(dict.fromkeys(name.partition(".")[0] for name in left))
    return (
        f"{len(left)} tensors ({places}) have no slider in core's {node}, where they follow its first slider, "
        f"{sliders[0].rstrip('.')}. Here they have the weights of their blocks."
    )


def _nodes() -> Iterable[tuple[str, list[str]]]:
    for node, kind in specific.NODE_CLASS_MAPPINGS.items():
        required = kind.INPUT_TYPES()["required"]
        yield node, [name for name, spec in required.items() if spec[0] == "FLOAT"]


def _fit(sliders: list[str], names: list[str]) -> tuple[int, int]:
    """How well the sliders of a node fit a model: its names outside the blocks, then the number of its blocks.

    ``names`` are sorted, so that the first one with a prefix is found by bisection. Below 0 where the node is for another
    model.
    """

    def is_there(slider: str) -> bool:
        place = bisect_left(names, slider)
        return place < len(names) and names[place].startswith(slider)

    there = {slider: is_there(slider) for slider in sliders}
    plain = [there[slider] for slider in sliders if not _NUMBERED.search(slider)]
    blocks = [there[slider] for slider in sliders if _NUMBERED.search(slider)]
    if not any(blocks) or 2 * sum(plain) < len(plain):
        return (-1, 0)
    return (2 * sum(plain) - len(plain), -blocks.count(False))
