"""Texts and images as embeddings, through the CLIP and CLIP vision models that ComfyUI loads."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import algebra
from .errors import DeprojectorError

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
    """A text or image embedding on a wire: ``1 d`` in the space of CLIP's pooled state, with the empty text's."""

    vector: Tensor
    null: Tensor


def text_encoder(clip: Any) -> Any:
    """The CLIP to encode with: a clone without clip skip; DeprojectorError unless it is SD1's CLIP-L alone."""
    parts = frozenset(clip.tokenize(""))
    if parts != {"l"}:
        name = ENCODERS.get(parts, f"a text encoder with the parts {', '.join(sorted(parts))}")
        raise DeprojectorError(
            f"this is {name}; deprojectors need the CLIP of a Stable Diffusion 1 checkpoint."
        )
    own = clip.clone()
    own.layer_idx = None
    return own


def encode(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    """A text's hidden states ``1 77 d`` and pooled embedding ``1 d``; never through ``text_projection``.

    What does not fit into the first 75 tokens does not reach the embedding, which is logged.
    """
    tokens = clip.tokenize(text)
    if len(tokens["l"]) > 1:
        log.warning("deprojector: only the first 75 tokens of %r reach the embedding", text[:60])
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
    return cond[:, :77].float(), pooled.float()


def end_row(clip: Any, section: Any) -> int:
    """The row of the first end token in a tokenized section: the row that CLIP pools."""
    numbers = [token[0] for token in section]
    end = clip.cond_stage_model.clip_l.special_tokens["end"]
    return numbers.index(end, 1) if end in numbers[1:] else len(numbers) - 1


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
            "constant_rows is clip, but no CLIP is connected: connect one, or choose file."
        )
    return constant_rows(clip)


def merge_texts(clip: Any, text: str, separator: str, merge: str, norm: str) -> Embedding:
    """The texts of ``cat:1.2, maid:-0.3`` encoded one by one and merged."""
    own = text_encoder(clip)
    chunks = algebra.parse(text, "\n" if separator == "line" else ",")
    null = encode(own, "")[1][0]
    vectors = [encode(own, chunk.text)[1][0] for chunk in chunks]
    merged = algebra.merged(vectors, null, [chunk.weight for chunk in chunks], merge, norm)
    return Embedding(merged[None], null[None])


def image_embedding(inverse: Tensor, clip: Any, image: Any, base: Any, norm_of: str) -> Embedding:
    """A CLIP image embedding brought to the pooled space of the text encoder; one per image of the batch.

    ``inverse`` (``d p``) is the deprojector's inverse projection: the CLIP must be ``d`` wide, the image ``p``.
    ``norm_of`` ``text`` gives the difference from the empty text the length that a short text's has.
    """
    width, projected = inverse.shape
    null, like = (encode(text_encoder(clip), text)[1] for text in ("", "a photo of a cat"))
    if null.shape[-1] != width:
        raise DeprojectorError(
            f"this CLIP's text encoder is {null.shape[-1]} wide, but the deprojector belongs to one of width "
            f"{width}: connect the CLIP that it was trained for."
        )
    vectors = algebra.image_embedding(
        _image_embeds(image, projected),
        inverse,
        null,
        None if base is None else _image_embeds(base, projected).mean(0, keepdim=True),
    )
    if norm_of == "text":
        length = torch.norm(like - null)
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
            "SD1's text space needs CLIP ViT-L/14 (768): load clip-vit-large-patch14 with CLIP Vision Loader"
        )
    else:
        remedy = f"this deprojector's text space needs the image encoder trained with it ({wanted})"
    raise DeprojectorError(f"this image was encoded by {name}({width} numbers); {remedy}.")


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
            f"these embeddings are of text encoders of widths {a.shape[-1]} and {b.shape[-1]}: both must come "
            "from the same CLIP."
        )
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise DeprojectorError(
            f"the batches do not fit: {len(a)} and {len(b)} embeddings (one of them must be 1)."
        )
    count = max(len(a), len(b))
    return a.expand(count, -1), b.expand(count, -1)
