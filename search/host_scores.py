"""Scores by ComfyUI's own CLIP and CLIP vision models."""

from typing import Any

import torch

from .errors import SearchError
from .scores import cosine


def image_embedding(clip_vision: Any, images: torch.Tensor) -> torch.Tensor:
    """The projected embeddings ``n d`` of images ``n h w c`` in 0..1."""
    return clip_vision.encode_image(images[..., :3])["image_embeds"].float().cpu()


def text_embedding(clip: Any, text: str) -> torch.Tensor:
    """The pooled, projected embedding ``1 d`` of a text. SearchError for a text encoder without its projection."""
    if _lacks_projection(clip):
        raise SearchError(
            "This text encoder was saved without its projection, so its embeddings cannot be compared with images. Load the "
            "text encoder of a whole CLIP model with Load CLIP."
        )
    pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1]
    if pooled is None:
        raise SearchError(
            "This text encoder gives no pooled embedding. Use the text encoder of a CLIP model."
        )
    return pooled.reshape(1, -1).float().cpu()


def text_similarity(clip_vision: Any, clip: Any, images: torch.Tensor, text: str) -> float:
    """The mean cosine similarity of images and a text."""
    return cosine(image_embedding(clip_vision, images), text_embedding(clip, text))


def image_similarity(clip_vision: Any, images: torch.Tensor, reference: torch.Tensor) -> float:
    """The mean cosine similarity of images and reference images, each with each."""
    return cosine(image_embedding(clip_vision, images), image_embedding(clip_vision, reference))


def _lacks_projection(clip: Any) -> bool:
    """Whether an encoder that projects its pooled output has core's stand-in for the projection: the identity."""
    model = clip.cond_stage_model
    encoder = getattr(model, getattr(model, "clip", "") or "", model)
    projection = getattr(getattr(encoder, "transformer", None), "text_projection", None)
    if projection is None or not getattr(encoder, "return_projected_pooled", False):
        return False
    weight = projection.weight.detach().float().cpu()
    return torch.equal(weight, torch.eye(*weight.shape))
