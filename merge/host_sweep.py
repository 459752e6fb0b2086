"""Sweeps in ComfyUI: what is connected to the running node, and image embeddings by a CLIP vision model."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_execution.graph_utils import GraphBuilder, is_link
from comfy_execution.utils import get_executing_context

from ..blocks.names import Layout, layout_of


def layout_of_model(model: Any) -> Layout:
    """The block layout of a MODEL; BlockError for models without a U-Net of blocks."""
    return layout_of(model.model_state_dict("diffusion_model."))


def own_links(prompt: Any) -> dict[str, list]:
    """The links into the node that is running now, by input; ``prompt`` is core's DynamicPrompt.

    An expanded graph must link where the node itself links: passing on the objects would give every cell a new key
    in the cache. The node's id comes from the running context, because asking for it as a hidden input would put it
    into that key too.
    """
    context = get_executing_context()
    if context is None or prompt is None:
        raise RuntimeError("a sweep expands into a graph, so it only runs as a node of a ComfyUI prompt")
    inputs = prompt.get_node(context.node_id)["inputs"]
    return {name: value for name, value in inputs.items() if is_link(value)}


def new_prefix() -> str:
    """What the ids of a graph that the running node expands into must begin with."""
    return GraphBuilder.alloc_prefix()


def embed(clip_vision: Any, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The image embeddings of uint8 pictures ``n h w 3``, cell by cell, as float32 ``n d``; can be interrupted."""
    progress = comfy.utils.ProgressBar(len(pictures))
    embeddings = []
    for cell in pictures:
        comfy.model_management.throw_exception_if_processing_interrupted()
        output = clip_vision.encode_image(torch.from_numpy(cell.astype(np.float32) / 255))
        embeddings.append(output["image_embeds"].detach().float().cpu().numpy())
        progress.update(1)
    return embeddings
