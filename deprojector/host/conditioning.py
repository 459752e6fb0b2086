"""Deprojection of CONDITIONING: entries in, entries with new hidden states out."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..algebra import checked
from ..errors import DeprojectorError
from .models import LoadedDeprojector, Shaping, run
from .texts import Embedding

log = logging.getLogger("blockwork")

# (conditioning width, pooled width) of model families
FAMILIES = {
    (768, 768): "Stable Diffusion 1",
    (2048, 1280): "SDXL",
    (1280, 1280): "the SDXL refiner",
    (1024, 1024): "Stable Diffusion 2",
    (4096, 768): "Flux",
    (4096, 2048): "Stable Diffusion 3",
}
Rows = tuple[Tensor, Tensor] | None  # the start row and the empty text's row of a CLIP; None for the file's


def switched(
    loaded: LoadedDeprojector, lists: Sequence[list], wanted: Sequence[bool], shaping: Shaping, rows: Rows
) -> list[list]:
    """The conditionings, deprojected where ``wanted``; the others unchanged."""
    chosen = [entries for entries, wish in zip(lists, wanted, strict=True) if wish]
    made = iter(conditionings(loaded, chosen, shaping, rows))
    return [next(made) if wish else given for given, wish in zip(lists, wanted, strict=True)]


def conditionings(
    loaded: LoadedDeprojector, lists: Sequence[list], shaping: Shaping, rows: Rows = None
) -> list[list]:
    """The conditionings with deprojected hidden states, all of them from one recursion; all else is kept.

    DeprojectorError for conditioning of another model family, by name, or of another width.
    """
    entries = [entry for entries in lists for entry in entries]
    if not entries:
        return [[] for _ in lists]
    embeds = [pooled_of_entry(loaded, cond, options) for cond, options in entries]
    states = iter(run(loaded, torch.cat(embeds), shaping, rows).split([len(e) for e in embeds]))
    return [[[next(states), options.copy()] for _, options in entries] for entries in lists]


def pooled_of_entry(loaded: LoadedDeprojector, cond: Tensor, options: dict[str, Any]) -> Tensor:
    """The pooled embedding of a conditioning entry of the deprojector's width, ``b d`` (768 for SD1)."""
    pooled = options.get("pooled_output")
    width = cond.shape[-1]
    if pooled is None:
        raise DeprojectorError(
            f"This conditioning (width {width}) has no pooled embedding. Encode the text with an SD1 CLIP (CLIP Text "
            "Encode), and deproject before nodes that drop the pooled embedding."
        )
    sizes = (width, pooled.shape[-1])
    config = loaded.module.config
    if sizes != (config.dim, config.dim):
        name = FAMILIES.get(sizes, "another model family")
        what, remedy = f"a text encoder of width {config.dim}", "the CLIP that it was trained for"
        if config.dim == 768:
            what, remedy = "Stable Diffusion 1 (768, 768)", "the CLIP of an SD1 checkpoint"
        raise DeprojectorError(
            f"This conditioning is of {name} (width {sizes[0]}, pooled {sizes[1]}). The deprojector "
            f"{loaded.name!r} makes hidden states of {what}. Use {remedy}."
        )
    if cond.shape[1] > config.rows:
        log.warning(
            "Deproject Conditioning: this conditioning has %d rows (Conditioning Concat, or more than 75 tokens), but "
            "its pooled embedding holds only the first %d. The rest of the text is lost. Use Encode and Merge Texts "
            "or Text to Embedding for several texts.", cond.shape[1], config.rows,
        )  # fmt: skip
    return checked(pooled, "The pooled embedding of the conditioning")


def embedding_conditioning(
    loaded: LoadedDeprojector, embedding: Embedding, shaping: Shaping, rows: Rows = None
) -> list:
    """Conditioning with the deprojected hidden states of an embedding, which is also its pooled output."""
    states = run(loaded, embedding.vector, shaping, rows)
    return [[states, {"pooled_output": embedding.vector.to(states)}]]
