"""Texts and images as embeddings, through the CLIP and CLIP vision models that ComfyUI loads."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .. import algebra
from ..errors import DeprojectorError

log = logging.getLogger("blockwork")

ENCODERS = {
    frozenset({"l", "g"}): "an SDXL CLIP",
    frozenset({"g"}): "the SDXL refiner's CLIP",
    frozenset({"h"}): "a Stable Diffusion 2 CLIP",
    frozenset({"l", "t5xxl"}): "a Flux CLIP",
    frozenset({"l", "g", "t5xxl"}): "a Stable Diffusion 3 CLIP",
}
IMAGE_ENCODERS = {768: "ViT-L/14", 1024: "ViT-H/14", 1280: "ViT-bigG/14", 1152: "SigLIP"}


@dataclass(frozen=True)
class Embedding:
    """Text or image embeddings as a node's output: ``b d`` in the space of CLIP's pooled state, and the empty text's.

    Both are float32 on the intermediate device, wherever they come from. DeprojectorError for values that are not
    finite.
    """

    vector: Tensor
    null: Tensor

    def __post_init__(self) -> None:
        device = comfy.model_management.intermediate_device()
        for name in ("vector", "null"):
            object.__setattr__(self, name, getattr(self, name).to(device, torch.float32))
            algebra.checked(getattr(self, name), "The embedding")


def text_encoder(clip: Any) -> Any:
    """The CLIP to encode with: a clone without clip skip; DeprojectorError unless it is SD1's CLIP-L alone."""
    parts = frozenset(clip.tokenize(""))
    if parts != {"l"}:
        name = ENCODERS.get(parts, f"a text encoder with the parts {', '.join(sorted(parts))}")
        raise DeprojectorError(
            f"This is {name}. Deprojectors need the CLIP of a Stable Diffusion 1 checkpoint."
        )
    own = clip.clone()
    own.layer_idx = None
    return own


def encode(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    """A text's hidden states ``1 77 d`` and pooled embedding ``1 d``; never through ``text_projection``.

    Only the first 75 tokens reach the embedding; a longer text is logged. DeprojectorError for values that are
    not finite.
    """
    tokens = clip.tokenize(text)
    if len(tokens["l"]) > 1:
        log.warning("Deprojector: only the first 75 tokens of %r reach the embedding.", text[:60])
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
    algebra.checked(pooled, f"The embedding of {text[:60]!r}")
    return cond[:, : len(tokens["l"][0])].float(), pooled.float()


def end_row(clip: Any, section: Any) -> int:
    """The row of the first end token in a tokenized section: the row that CLIP pools.

    A token may be a vector, from a textual inversion.
    """
    end = clip.cond_stage_model.clip_l.special_tokens["end"]
    rows = (row for row, token in enumerate(section) if row and isinstance(token[0], int) and token[0] == end)
    return next(rows, len(section) - 1)


def constant_rows(clip: Any) -> tuple[Tensor, Tensor]:
    """The start row and the empty text's embedding (``d`` each) of a CLIP."""
    states, pooled = encode(text_encoder(clip), "")
    return states[0, 0], pooled[0]


def chosen_rows(source: str, clip: Any) -> tuple[Tensor, Tensor] | None:
    """The constant rows of a source: None for the deprojector's own ``file``, else those of the ``clip``."""
    if source == "file":
        return None
    if clip is None:
        raise DeprojectorError(
            "constant_rows is clip, but no CLIP is connected. Connect one, or choose file."
        )
    return constant_rows(clip)


def chunks(text: str, separator: str) -> list[algebra.Chunk]:
    """The texts of a list with their weights, split at commas, or at line breaks for the separator ``line``."""
    return algebra.parse(text, "\n" if separator == "line" else ",")


def merge_texts(clip: Any, text: str, separator: str, merge: str, norm: str) -> Embedding:
    """The texts of ``cat:1.2, maid:-0.3`` encoded one by one and merged."""
    own = text_encoder(clip)
    parts = chunks(text, separator)
    log.info(
        "Deprojector: %s", "; ".join(f"{chunk.text!r} x {chunk.weight:g}" for chunk in parts) or "no text"
    )
    null = encode(own, "")[1][0]
    vectors = [encode(own, chunk.text)[1][0] for chunk in parts]
    merged = algebra.merged(vectors, null, [chunk.weight for chunk in parts], merge, norm)
    return Embedding(merged[None], null[None])


def image_embedding(inverse: Tensor, clip: Any, image: Any, base: Any, norm_of: str) -> Embedding:
    """CLIP image embeddings in the pooled space of the text encoder; one per image of the batch.

    ``inverse`` (``d p``) is the deprojector's inverse projection: the CLIP must be ``d`` wide, the image ``p``.
    ``norm_of`` ``text`` gives the difference from the empty text the length that a short text's has.
    """
    width, projected = inverse.shape
    null, reference = (encode(text_encoder(clip), text)[1] for text in ("", "a photo of a cat"))
    if null.shape[-1] != width:
        raise DeprojectorError(
            f"This CLIP's text encoder is {null.shape[-1]} wide, but the deprojector belongs to one of width "
            f"{width}. Connect the CLIP that it was trained for."
        )
    vectors = algebra.image_embedding(
        _image_embeds(image, projected),
        inverse.to(null),
        null,
        None if base is None else _image_embeds(base, projected).mean(0, keepdim=True),
    )
    if norm_of == "text":
        length = torch.norm(reference - null)
        vectors = torch.cat([null + algebra.match_norm(v - null, length) for v in vectors.split(1)])
    return Embedding(vectors, null)


def _image_embeds(output: Any, wanted: int) -> Tensor:
    embeds = output["image_embeds"].float()
    width = embeds.shape[-1]
    if width == wanted:
        return embeds
    name = f"{IMAGE_ENCODERS[width]} " if width in IMAGE_ENCODERS else ""
    if wanted == 768:
        remedy = (
            "SD1's text space needs CLIP ViT-L/14 (768). Load clip-vit-large-patch14 with CLIP Vision Loader"
        )
    else:
        remedy = f"This deprojector's text space needs the image encoder trained with it ({wanted})"
    raise DeprojectorError(f"This image was encoded by {name}({width} numbers). {remedy}.")


def mix(first: Embedding, second: Embedding, method: str, amount: float) -> Embedding:
    """``first`` and ``second`` by ``lerp``, ``slerp`` (around the empty text) or ``add`` (``amount`` of the second)."""
    a, b = _broadcast(first.vector, second.vector)
    null = first.null
    if method == "add":
        return dataclasses.replace(first, vector=a + amount * (b - null))
    if method == "slerp":
        pairs = zip(a, b, strict=True)
        return dataclasses.replace(
            first, vector=torch.stack([algebra.slerp(x, y, amount, null[0]) for x, y in pairs])
        )
    return dataclasses.replace(first, vector=algebra.lerp(a, b, amount))


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape[-1] != b.shape[-1]:
        raise DeprojectorError(
            f"These embeddings are of text encoders of widths {a.shape[-1]} and {b.shape[-1]}. Both must come "
            "from the same CLIP."
        )
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise DeprojectorError(
            f"The batches do not match: {len(a)} and {len(b)} embeddings. They must be equal, or one of them 1."
        )
    count = max(len(a), len(b))
    return a.expand(count, -1), b.expand(count, -1)
