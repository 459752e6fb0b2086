"""Sweeps in ComfyUI: links of the running node, image embeddings by a CLIP vision model, previews for the browser."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder, is_link
from comfy_execution.utils import get_executing_context

from ..blocks.bypass import last_layers
from ..blocks.names import Layout, layout_of
from ..blocks.weights import OFF
from . import host_cells
from .cells import LIST, expansion_text
from .graph import Graph, Link, grid_id, nothing
from .image import Moves
from .sweep import Sweep
from .view import describe, sheet

PREVIEWS = "blockwork_sweep"  # below ComfyUI's temp folder, which it empties when it starts


def layout_of_model(model: Any) -> Layout:
    """The block layout of a MODEL; BlockError for models without a U-Net of blocks."""
    return layout_of(model.model_state_dict("diffusion_model."))


def check_bypass(model: Any, sweep: Sweep) -> None:
    """BlockError that names the blocks of the sweep that cannot be bypassed, where it bypasses blocks."""
    if OFF in sweep.ratios:
        last_layers(model.model_state_dict("diffusion_model."), sweep.layout, sweep.blocks)


def own_links(prompt: Any) -> dict[str, list]:
    """The links into the node that is running now, by input; ``prompt`` is core's DynamicPrompt.

    An expanded graph must link where the node itself links: passing on the objects would give every cell a new key
    in the cache. The node's id comes from the running context, because asking for it as a hidden input would put it
    into that key too.
    """
    return {name: value for name, value in _own_inputs(prompt).items() if is_link(value)}


def expand(
    prompt: Any, make: Callable[[str, host_cells.Finder], tuple[Graph, list[Link]]], shown: str = ""
) -> io.NodeOutput:
    """The output of the node that is running now: the graph and result links that ``make(prefix, finished)`` gives.

    ``prefix`` is that of the ids, ``finished`` finds images from before. What the grid shows under the key ``shown``,
    the node itself shows again when it is answered from the cache.
    Where the API prompt asks the node to list its cells, nothing is expanded, and the text output is the graph itself.
    """
    prefix = GraphBuilder.alloc_prefix()
    if _own_inputs(prompt).get(LIST):
        graph, outputs = make(prefix, nothing)
        mark = _own_node(prompt).get("is_changed")
        return io.NodeOutput(*[None] * (len(outputs) - 1), expansion_text(graph, outputs, mark))
    links = {name: link for name, link in own_links(prompt).items() if name != "clip_vision"}
    expansion, finished = host_cells.expand(prompt, links, prefix, grid_id(prefix))
    graph, outputs = make(prefix, finished)
    # Not an input of the grid: it keeps an earlier grid from answering for this one.
    graph[grid_id(prefix)]["inputs"]["expansion"] = prefix
    return io.NodeOutput(*outputs, expand=graph, ui={shown: [expansion.shown]} if shown else {})


def _own_inputs(prompt: Any) -> dict[str, Any]:
    """The inputs of the node that is running now, as the prompt has them."""
    return _own_node(prompt)["inputs"]


def _own_node(prompt: Any) -> dict[str, Any]:
    context = get_executing_context()
    if context is None or prompt is None:
        raise RuntimeError("A block sweep expands into a graph. It only runs as a node of a ComfyUI prompt.")
    return prompt.get_node(context.node_id)


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


def preview(sweep: Sweep, pictures: Sequence[np.ndarray], moves: Sequence[Moves]) -> dict[str, Any]:
    """The node's ``ui``: every cell's pictures as a temporary file, as core's previews are, with their figures."""
    return {PREVIEWS: [describe(sweep, moves, [save_preview(cell) for cell in pictures])]}


def save_preview(pictures: np.ndarray) -> dict[str, str]:
    """Images, uint8 ``n h w 3``, as one temporary JPEG: core's ``filename, subfolder, type``."""
    folder = Path(folder_paths.get_temp_directory()) / PREVIEWS
    folder.mkdir(parents=True, exist_ok=True)
    data = sheet(pictures)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.jpg"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
    return {"filename": path.name, "subfolder": PREVIEWS, "type": "temp"}
