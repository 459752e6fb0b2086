"""Finding a recipe in ComfyUI: files by name, progress and interruption, the result as outputs of a node."""

from collections.abc import Sequence
from contextlib import ExitStack, closing

import torch

from ..errors import MergeError
from ..files.checkpoint import FileCheckpoint
from ..files.host import find, progress
from .answer import images, recipe_text, report, weights_text
from .finding import find_recipe


def find_by_name(merge: str, candidates: Sequence[str], key_map: str) -> tuple[str, str, str, torch.Tensor]:
    """Weights text, recipe, report and IMAGE (``b h w 3``, 0..1, one per further candidate)."""
    twice = next((name for number, name in enumerate(candidates) if name in candidates[:number]), None)
    if twice is not None:
        raise MergeError(f"{twice} is given as a candidate twice. Choose each candidate once.")
    with ExitStack() as stack:
        merged, *parents = [
            stack.enter_context(closing(FileCheckpoint(find(name), name))) for name in (merge, *candidates)
        ]
        total, done, show = sum(entry.nbytes for entry in merged.entries.values()), 0, progress()

        def tick(moved: int) -> None:
            nonlocal done
            done += moved
            show(min(done, total), total)

        found = find_recipe(merged, parents, key_map, tick)
        for file in (merged, *parents):
            file.check_unchanged()
    return weights_text(found), recipe_text(found), report(found), torch.from_numpy(images(found))
