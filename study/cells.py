"""A sweep on many servers: its cells as prompts of their own, and the prompt that puts their images together.

Graphs are API prompts: ids to class and inputs. A server lists a sweep (``listing``): it answers with the graph that
the sweep's node expands into there. The rest is plain work on graphs: ``cells`` cuts the expansions into one prompt
per cell, ``assemble`` puts the images that came back into the place of the sampling. Needs no packages.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..blocks.names import BlockError
from .graph import Graph, Link, gather

SWEEPS = ("BlockworkBlockSweep", "BlockworkBlockGrowth")
LIST = "list_cells"  # an input of sweep nodes that only API prompts have: the node answers with its expansion
TEXT = 2  # the output of a sweep node that is a text


@dataclass(frozen=True, eq=False)
class Cell:
    """One sampled model: a prompt, the ids of the nodes in it that preview its images, and how it is named."""

    name: str
    prompt: Graph
    previews: tuple[str, ...]


def sweeps_of(prompt: Graph) -> list[str]:
    """The ids of a prompt's sweeps; BlockError when there is none, or one reads from another."""
    if not all(isinstance(node, dict) and "class_type" in node for node in prompt.values()):
        raise BlockError(
            "The file is not a workflow in API form. Use Workflow, Export (API) in ComfyUI to save it."
        )
    found = [key for key, node in prompt.items() if node["class_type"] in SWEEPS]
    if not found:
        raise BlockError(
            "The workflow has no sweep. Expected a Block Sweep or a Block Growth. Add one and export again."
        )
    for key in found:
        above = set(_upstream(prompt, [key])) & set(found) - {key}
        if above:
            raise BlockError(
                f"The sweep {key} reads from the sweep {min(above)}. Run them as two workflows, one after the other."
            )
    return found


def listing(prompt: Graph) -> Graph:
    """The prompt that lists the cells: each sweep's expansion as JSON is the text of node ``list_<id>``."""
    graph = dict(prompt)
    for key in sweeps_of(prompt):
        node = prompt[key]
        graph[key] = {**node, "inputs": {**node["inputs"], LIST: True}}
        graph[f"list_{key}"] = {"class_type": "PreviewAny", "inputs": {"source": [key, TEXT]}}
    return _upstream(graph, [f"list_{key}" for key in sweeps_of(prompt)])


def expansion_text(graph: Graph, outputs: Sequence[Link], mark: Any = None) -> str:
    """What a sweep node answers with when it lists its cells; ``mark`` is ComfyUI's note whether the node has changed."""
    return json.dumps({"graph": graph, "grid": outputs[0][0], "is_changed": mark})


def marked(prompt: Graph, expansions: Mapping[str, str], assembled: Graph) -> Graph:
    """The prompt with ComfyUI's notes whether nodes have changed, as the images of one server carry it."""
    marks = {key: node["is_changed"] for key, node in assembled.items() if "is_changed" in node}
    for key, text in expansions.items():
        marks[key] = json.loads(text).get("is_changed")
    found = {key: marks.get(key) for key in prompt}
    return {k: node if found[k] is None else {**node, "is_changed": found[k]} for k, node in prompt.items()}


def cells(prompt: Graph, expansions: Mapping[str, str]) -> list[Cell]:
    """One prompt per cell of all sweeps, in the order in which one server samples them.

    ``expansions`` are the texts of ``expansion_text`` by the id of the sweep. The images of a cell are those that are
    sampled from one model, so that a server patches it once.
    """
    found = []
    for key, text in expansions.items():
        graph, images = _read(text)
        groups: dict[str, list[str]] = {}
        for image in images:
            groups.setdefault(json.dumps(_sampled_model(graph, image)), []).append(image)
        for group in groups.values():
            previews = {
                f"preview_{number}": {"class_type": "PreviewImage", "inputs": {"images": [image, 0]}}
                for number, image in enumerate(group)
            }
            name = group[0].split(".", 3)[-1].removesuffix("_decode")  # 5.0.0.IN04_0.75_1_decode
            found.append(
                Cell(f"{key} {name}", _upstream(prompt | graph | previews, previews), tuple(previews))
            )
    return found


def digest(cell: Cell, files: Mapping[str, Any]) -> str:
    """A name for what a cell samples: a hash of its nodes, and of ``files[name]`` for each file that an input names.

    The ids of nodes, titles and the order of inputs do not change it.
    """
    known: dict[str, str] = {}

    def of(key: str) -> str:
        if key not in known:
            node = cell.prompt[key]
            inputs = {
                name: [of(value[0]), value[1]]
                if _is_link(value)
                else [value, files.get(value) if isinstance(value, str) else None]
                for name, value in node["inputs"].items()
            }
            text = json.dumps([node["class_type"], inputs], sort_keys=True)
            known[key] = hashlib.sha256(text.encode()).hexdigest()
        return known[key]

    return hashlib.sha256("".join(map(of, cell.previews)).encode()).hexdigest()[:24]


def named_texts(found: Iterable[Cell]) -> set[str]:
    """All texts in the inputs of the cells: those among them that are model files are what the cells depend on."""
    return {
        value
        for cell in found
        for node in cell.prompt.values()
        for value in node["inputs"].values()
        if isinstance(value, str)
    }


def assemble(prompt: Graph, expansions: Mapping[str, str], names: Sequence[Sequence[str]]) -> Graph:
    """The prompt with loaded images in the place of the sampling; previews where nothing reads from a sweep.

    ``names`` are what LoadImage reads, one list per image of the sweeps in their order: several of a batched latent.
    """
    graph, wanted = dict(prompt), iter(names)
    for key, text in expansions.items():
        expanded, images = _read(text)
        loaded = [_batch(graph, f"{key}_image_{n}", next(wanted)) for n in range(len(images))]
        grid = expanded[json.loads(text)["grid"]]
        graph[key] = {**grid, "inputs": {**grid["inputs"], "images": gather(graph, loaded, f"{key}_")}}
        if not any(key == link[0] for node in prompt.values() for link in _links(node["inputs"])):
            for output in (0, 1):
                preview = {"class_type": "PreviewImage", "inputs": {"images": [key, output]}}
                graph[f"{key}_preview_{output}"] = preview
    return graph


def _batch(graph: Graph, stem: str, names: Sequence[str]) -> Link:
    """Adds nodes that load the images of one batch; the link of the batch."""
    link: Link = []
    for number, name in enumerate(names):
        graph[f"{stem}_{number}"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        loaded: Link = [f"{stem}_{number}", 0]
        if link:
            both = {"class_type": "ImageBatch", "inputs": {"image1": link, "image2": loaded}}
            graph[f"{stem}_{number}_batch"] = both
            loaded = [f"{stem}_{number}_batch", 0]
        link = loaded
    return link


def _read(text: str) -> tuple[Graph, list[str]]:
    """The graph of an expansion and the ids of the nodes that make its images, in the order of the grid."""
    told = json.loads(text)
    graph = told["graph"]

    def leaves(key: str) -> Iterator[str]:
        node = graph[key]
        if node["class_type"] != "CreateList":
            yield key
            return
        for number in range(len(node["inputs"])):
            yield from leaves(node["inputs"][f"inputs.input{number}"][0])

    return graph, list(leaves(graph[told["grid"]]["inputs"]["images"][0]))


def _sampled_model(graph: Graph, image: str) -> Link:
    """The model that an image is sampled with."""
    return graph[graph[image]["inputs"]["samples"][0]]["inputs"]["model"]


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _links(inputs: Mapping[str, Any]) -> Iterator[Link]:
    return (value for value in inputs.values() if _is_link(value))


def _upstream(graph: Graph, ends: Iterable[str]) -> Graph:
    """The part of a graph that ``ends`` read from, themselves included."""
    wanted: set[str] = set()
    waiting = list(ends)
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += [link[0] for link in _links(graph[key]["inputs"])]
    return {key: node for key, node in graph.items() if key in wanted}
