"""A sweep as a graph of ComfyUI's own nodes: inside one prompt, or as one prompt per cell for many machines.

Every cell is a merge node, and per seed a sampler and a decoder, so each picture has its own entry in ComfyUI's
cache: what an interrupted sweep has finished is not sampled again. Graphs are API prompts: ids to class and inputs.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..blocks.names import BlockError, Layout
from ..blocks.weights import OFF
from .sweep import Cell, Sweep, parse_sweep

Node = dict[str, Any]
Graph = dict[str, Node]
Link = list  # [node id, output number]

SWEEP, GRID = "BlockworkBlockSweep", "BlockworkSweepGrid"
DEFAULTS = {
    "seeds": "1, 2, 3, 4", "steps": 20, "cfg": 7.0, "sampler_name": "euler_ancestral", "scheduler": "normal",
    "denoise": 1.0, "ratios": "0.75", "blocks": "ALL", "cell_size": 128, "key_map": "mbw", "share_a": "", "page": "",
}  # fmt: skip
LIST_SIZE = 10  # inputs of one of core's CreateList nodes
FOLDER = "blockwork_sweep"


def cell_nodes(
    cell: Cell, sweep: Sweep, inputs: Mapping[str, Any], prefix: str = ""
) -> tuple[Graph, list[Link]]:
    """The nodes of one cell and the links of its pictures, in the order of the seeds.

    ``inputs`` are those of a Block Sweep node. Only the changed block's tensors differ from cell to cell, and no
    weight is copied.
    """
    graph: Graph = {}
    model = inputs["model"]
    if cell.block:
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


def sweep_graph(sweep: Sweep, inputs: Mapping[str, Any], prefix: str) -> tuple[Graph, list[Link]]:
    """The whole sweep and the links of its results: picture, plot, report."""
    graph: Graph = {}
    pictures: list[Link] = []
    for cell in sweep.cells:
        nodes, links = cell_nodes(cell, sweep, inputs, prefix)
        graph |= nodes
        pictures += links
    grid = f"{prefix}grid"
    graph[grid] = _grid(sweep, inputs, gather(graph, pictures, prefix))
    return graph, [[grid, output] for output in range(3)]


def export(prompt: Graph, layout: "str | Layout") -> dict[str, Graph]:
    """The Block Sweep of an API prompt as prompts that other machines can run, by name; ``assemble`` comes last.

    A cell's prompt saves its pictures below output/blockwork_sweep; ``assemble`` loads them all, draws the grid
    and goes on as the prompt did. BlockError when there is not exactly one Block Sweep, or its settings are linked.
    """
    node_id = _only_sweep(prompt)
    inputs = DEFAULTS | prompt[node_id]["inputs"]
    linked = [name for name in DEFAULTS if _is_link(inputs[name])]
    if linked:
        raise BlockError(
            f"The input {linked[0]} of the Block Sweep is linked. Type its value into the node to export the sweep."
        )
    for node in prompt.values():
        if node["class_type"].startswith("Empty") and node["inputs"].get("batch_size", 1) != 1:
            raise BlockError(
                "An exported sweep samples one image per seed. Set the batch size to 1 and add seeds."
            )
    sweep = parse_sweep(layout, inputs["blocks"], inputs["ratios"], inputs["seeds"])
    check(inputs)
    folder = f"{FOLDER}/{_digest(prompt, inputs)}"
    prompts: dict[str, Graph] = {}
    loads: Graph = {}
    for cell in sweep.cells:
        cells, pictures = cell_nodes(cell, sweep, inputs, f"{node_id}_")
        for seed, picture in zip(sweep.seeds, pictures, strict=True):
            stem = f"{folder}/{cell.name}_{seed}"
            save = {"images": picture, "filename_prefix": stem}
            cells[f"{node_id}_{cell.name}_{seed}_save"] = {"class_type": "SaveImage", "inputs": save}
            load = {"image": f"{stem}_00001_.png [output]"}
            loads[f"{node_id}_{cell.name}_{seed}"] = {"class_type": "LoadImage", "inputs": load}
        prompts[cell.name] = _upstream(prompt | cells, cells)
    return prompts | {"assemble": _assemble(prompt, node_id, sweep, inputs, loads)}


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


def _assemble(prompt: Graph, node_id: str, sweep: Sweep, inputs: Mapping[str, Any], loads: Graph) -> Graph:
    """The prompt with loaded pictures in the place of the sweep, and what hangs on it; previews if nothing does."""
    graph = {**prompt, **loads}
    images = gather(graph, [[load, 0] for load in loads], f"{node_id}_")
    graph[node_id] = _grid(sweep, inputs, images)
    ends = _downstream(prompt, node_id)
    if ends == {node_id}:
        for output in (0, 1):
            preview = {"class_type": "PreviewImage", "inputs": {"images": [node_id, output]}}
            graph[f"{node_id}_preview_{output}"] = preview
            ends.add(f"{node_id}_preview_{output}")
    return _upstream(graph, ends)


def _merge(cell: Cell, inputs: Mapping[str, Any]) -> Node:
    common = {"weights": cell.label, "key_map": inputs["key_map"]}
    if inputs.get("model_b") is None:
        return {"class_type": "BlockworkScaleBlocks", "inputs": {"model": inputs["model"], **common}}
    models = {"model_a": inputs["model"], "model_b": inputs["model_b"]}
    if inputs["share_a"].strip():
        models["weights_a"] = f"{cell.block}={inputs['share_a'].strip()}"
    return {"class_type": "BlockworkMergeModels", "inputs": {**models, **common}}


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
        "title": sweep.title(two),
        "cell_size": inputs["cell_size"],
    }
    if inputs.get("page"):
        settings["page"] = inputs["page"]
    if inputs.get("clip_vision") is not None:
        settings["clip_vision"] = inputs["clip_vision"]
    return {"class_type": GRID, "inputs": settings}


def gather(graph: Graph, pictures: list[Link], prefix: str) -> Link:
    """One link to the list of all pictures, through a tree of core's CreateList nodes, which copy nothing."""
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


def _only_sweep(prompt: Graph) -> str:
    found = [node_id for node_id, node in prompt.items() if node["class_type"] == SWEEP]
    if len(found) != 1:
        raise BlockError(f"The prompt has {len(found)} Block Sweep nodes. An export needs exactly one.")
    return found[0]


def _digest(prompt: Graph, inputs: Mapping[str, Any]) -> str:
    """A name for what is sampled: the same settings give the same file names, others do not meet them."""
    read = _upstream(prompt, [link[0] for link in _links(inputs)])
    bare = {node_id: [node["class_type"], node["inputs"]] for node_id, node in read.items()}
    drawn = (
        "cell_size",
        "page",
        "clip_vision",
        "blocks",
        "ratios",
        "seeds",
    )  # not sampled with, or in the file name
    sampled = {name: value for name, value in inputs.items() if name not in drawn}
    return hashlib.sha256(json.dumps([bare, sampled], sort_keys=True).encode()).hexdigest()[:12]


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _links(inputs: Mapping[str, Any]) -> Iterator[Link]:
    return (value for value in inputs.values() if _is_link(value))


def _upstream(graph: Graph, ends: Iterable[str]) -> Graph:
    """The part of a graph that ``ends`` read from, themselves included."""
    wanted: dict[str, None] = {}
    waiting = list(ends)
    while waiting:
        node_id = waiting.pop()
        if node_id not in wanted:
            wanted[node_id] = None
            waiting += [link[0] for link in _links(graph[node_id]["inputs"])]
    return {node_id: node for node_id, node in graph.items() if node_id in wanted}


def _downstream(graph: Graph, start: str) -> set[str]:
    """``start`` and everything that reads from it."""
    reached = {start}
    while True:
        more = {
            node_id
            for node_id, node in graph.items()
            if node_id not in reached and any(link[0] in reached for link in _links(node["inputs"]))
        }
        if not more:
            return reached
        reached |= more
