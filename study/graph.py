"""A sweep as a graph of ComfyUI's own nodes, which its node expands into. ``cells`` cuts it for several servers.

Every cell is a merge node, and per seed a sampler and a decoder, so each picture has its own entry in ComfyUI's
cache: what an interrupted sweep has finished is not sampled again. Graphs are API prompts: ids to class and inputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..blocks.names import BlockError
from ..blocks.weights import OFF
from .sweep import Cell, Sweep

Node = dict[str, Any]
Graph = dict[str, Node]
Link = list  # [node id, output number]

GRID = "BlockworkSweepGrid"
DEFAULTS = {
    "seeds": "1, 2, 3, 4", "steps": 20, "cfg": 7.0, "sampler_name": "euler_ancestral", "scheduler": "normal",
    "denoise": 1.0, "ratios": "0.75", "blocks": "ALL", "cell_size": 128, "key_map": "mbw", "share_a": "", "page": "",
    "lora_name": "none", "lora_mode": "scale", "lora_strength": 1.0,
}  # fmt: skip
NO_LORA = "none"
# How a cell changes the LoRA's block: by its ratio, off with the others on, on with the others off.
SCALE, MUTE, SOLO = LORA_MODES = ("scale", "mute", "solo")
LORA_RATIOS = {MUTE: "0", SOLO: "1"}  # instead of the node's
LIST_SIZE = 10  # inputs of one of core's CreateList nodes


def cell_nodes(
    cell: Cell, sweep: Sweep, inputs: Mapping[str, Any], prefix: str = ""
) -> tuple[Graph, list[Link]]:
    """The nodes of one cell and the links of its pictures, in the order of the seeds.

    ``inputs`` are those of a Block Sweep node. Only the changed block's tensors differ from cell to cell, and no
    weight is copied.
    """
    graph: Graph = {}
    model = inputs["model"]
    if cell.block or (has_lora(inputs) and inputs["lora_mode"] != SOLO):
        model = [f"{prefix}{cell.name}", 0]
        graph[model[0]] = _merge(cell, inputs)
    pictures = []
    for seed in sweep.seeds:
        stem = f"{prefix}{cell.name}_{seed}"
        graph[f"{stem}_sample"] = sampler_node(model, seed, inputs)
        decode = {"samples": [f"{stem}_sample", 0], "vae": inputs["vae"]}
        graph[f"{stem}_decode"] = {"class_type": "VAEDecode", "inputs": decode}
        pictures.append([f"{stem}_decode", 0])
    return graph, pictures


def has_lora(inputs: Mapping[str, Any]) -> bool:
    """Whether the blocks of a LoRA are swept, and not those of the model."""
    return inputs.get("lora_name", NO_LORA) != NO_LORA


def nothing(part: Graph) -> None:
    """No image of a sweep is finished."""


def sweep_graph(
    sweep: Sweep, inputs: Mapping[str, Any], prefix: str, finished: Callable[[Graph], Any] = nothing
) -> tuple[Graph, list[Link]]:
    """The whole sweep and the links of its results: picture, plot, report.

    ``finished`` gives the image that a part of the graph would make, where there is one from before; such a part is
    left out.
    """
    graph: Graph = {}
    pictures: list[Any] = []
    for cell in sweep.cells:
        nodes, links = cell_nodes(cell, sweep, inputs, prefix)
        for link in links:
            pictures.append(unless_finished(graph, _part(nodes, link), link, finished))
    grid = grid_id(prefix)
    graph[grid] = _grid(sweep, inputs, gather(graph, pictures, prefix))
    return graph, [[grid, output] for output in range(3)]


def grid_id(prefix: str) -> str:
    """The node of an expanded graph that gets all images."""
    return f"{prefix}grid"


def unless_finished(graph: Graph, part: Graph, link: Link, finished: Callable[[Graph], Any]) -> Any:
    """The finished image of ``part``; or, with ``part`` added to ``graph``, the link to its image."""
    image = finished(part)
    if image is not None:
        return image
    graph |= part
    return link


def _part(nodes: Graph, link: Link) -> Graph:
    """The nodes, of these, that a link reads from."""
    if link[0] not in nodes:
        return {}
    node = nodes[link[0]]
    links = [value for value in node["inputs"].values() if isinstance(value, list)]
    return {name: one for above in links for name, one in _part(nodes, above).items()} | {link[0]: node}


def check(inputs: Mapping[str, Any]) -> None:
    """BlockError where inputs of a Block Sweep node contradict each other."""
    if (inputs.get("sampler") is None) != (inputs.get("sigmas") is None):
        raise BlockError(
            "Only one of sampler and sigmas is connected. Connect both, or neither to use the settings of the node."
        )
    if inputs.get("model_b") is not None and OFF in map(str.strip, inputs["ratios"].lower().split(",")):
        raise BlockError(
            f"The ratio {OFF} bypasses blocks of one model. Use numbers with model_b, or disconnect model_b."
        )
    if inputs["share_a"].strip() and inputs.get("model_b") is None:
        raise BlockError("share_a needs a second model. Connect model_b, or leave share_a empty.")
    if not has_lora(inputs):
        return
    if inputs.get("model_b") is not None:
        raise BlockError(
            "A sweep changes the blocks of a LoRA or swaps those of two models. Disconnect model_b, or set lora_name to none."
        )
    if OFF in map(str.strip, inputs["ratios"].lower().split(",")):
        raise BlockError(
            f"The ratio {OFF} bypasses blocks of the model. Use the ratio 0 for the blocks of a LoRA."
        )


def _merge(cell: Cell, inputs: Mapping[str, Any]) -> Node:
    if has_lora(inputs):
        return _lora(cell, inputs)
    common = {"weights": cell.label, "key_map": inputs["key_map"]}
    if inputs.get("model_b") is None:
        return {"class_type": "BlockworkScaleBlocks", "inputs": {"model": inputs["model"], **common}}
    models = {"model_a": inputs["model"], "model_b": inputs["model_b"]}
    if inputs["share_a"].strip():
        models["weights_a"] = f"{cell.block}={inputs['share_a'].strip()}"
    return {"class_type": "BlockworkMergeModels", "inputs": {**models, **common}}


def _lora(cell: Cell, inputs: Mapping[str, Any]) -> Node:
    alone = inputs["lora_mode"] == SOLO
    weights = (f"0, {cell.label}" if alone else cell.label) if cell.block else "1"
    names = {"lora_name": inputs["lora_name"], "strength_model": inputs["lora_strength"]}
    found = {"model": inputs["model"], **names, "key_map": inputs["key_map"], "weights": weights}
    return {"class_type": "BlockworkLoadLoRA", "inputs": found}


def sampler_node(model: Link, seed: int, inputs: Mapping[str, Any]) -> Node:
    """KSampler, or SamplerCustom where a SAMPLER and SIGMAS are connected."""
    common = {name: inputs[name] for name in ("positive", "negative", "latent_image", "cfg")}
    if inputs.get("sampler") is None:
        names = ("steps", "sampler_name", "scheduler", "denoise")
        own = {"seed": seed, **{name: inputs[name] for name in names}}
        return {"class_type": "KSampler", "inputs": {"model": model, **common, **own}}
    own = {"add_noise": True, "noise_seed": seed, "sampler": inputs["sampler"], "sigmas": inputs["sigmas"]}
    return {"class_type": "SamplerCustom", "inputs": {"model": model, **common, **own}}


def _grid(sweep: Sweep, inputs: Mapping[str, Any], images: Link) -> Node:
    two = inputs.get("model_b") is not None
    settings = {
        "images": images,
        **sweep.texts(),
        "title": sweep.title(
            two, inputs["lora_name"] if has_lora(inputs) else "", inputs.get("lora_mode", SCALE)
        ),
        "cell_size": inputs["cell_size"],
    }
    if inputs.get("page"):
        settings["page"] = inputs["page"]
    if inputs.get("clip_vision") is not None:
        settings["clip_vision"] = inputs["clip_vision"]
    return {"class_type": GRID, "inputs": settings}


def gather(graph: Graph, pictures: list[Any], prefix: str) -> Link:
    """One link to the list of all pictures (links, or images), through a tree of core's CreateList nodes, which copy nothing."""
    level = 0
    while len(pictures) > 1 or level == 0:
        groups = [pictures[start : start + LIST_SIZE] for start in range(0, len(pictures), LIST_SIZE)]
        pictures = []
        for number, group in enumerate(groups):
            node = f"{prefix}list_{level}_{number}"
            # Named from the last: core's scheduler walks inputs backwards, and so starts with the first cell.
            named = {f"inputs.input{i}": group[i] for i in reversed(range(len(group)))}
            graph[node] = {"class_type": "CreateList", "inputs": named}
            pictures.append([node, 0])
        level += 1
    return pictures[0]
