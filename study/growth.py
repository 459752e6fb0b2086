"""Block growth as a graph: one prompt is taken over by another block by block, each stage with its own cache entry.

Every stage is an Inject Into Blocks node, a sampler and a decoder, so a stopped growth resumes, and a changed label,
grid or later stage samples nothing again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .graph import Graph, Link, gather, grid_id, nothing, sampler_node, unless_finished

INJECT, GRID = "BlockworkInjectIntoBlocks", "BlockworkGrowthGrid"


def growth_graph(
    stages: Sequence[tuple[str, str]],
    inputs: Mapping[str, Any],
    prefix: str,
    finished: Callable[[Graph], Any] = nothing,
) -> tuple[Graph, list[Link]]:
    """The graph and the links of its results: grid, images, stages.

    ``stages`` are labels with block specs, empty for no block; ``inputs`` are those of a Block Growth node, with
    links for its sockets; ``finished`` is as for ``sweep_graph``.
    """
    graph: Graph = {}
    pictures: list[Any] = []
    for number, (_, spec) in enumerate(stages):
        part: Graph = {}
        model, positive, stem = inputs["model"], inputs["positive"], f"{prefix}stage{number:02}"
        if spec:
            common = {name: inputs[name] for name in ("model", "prompt", "mode", "weight")}
            own = {**common, "conditioning": positive, "blocks": spec}
            part[f"{stem}_inject"] = {"class_type": INJECT, "inputs": own}
            model, positive = [f"{stem}_inject", 0], [f"{stem}_inject", 1]
        part[f"{stem}_sample"] = sampler_node(model, inputs["seed"], {**inputs, "positive": positive})
        decode = {"samples": [f"{stem}_sample", 0], "vae": inputs["vae"]}
        part[f"{stem}_decode"] = {"class_type": "VAEDecode", "inputs": decode}
        pictures.append(unless_finished(graph, part, [f"{stem}_decode", 0], finished))
    lines = "\n".join(f"{label}: {spec or 'no block'}" for label, spec in stages)
    settings = {"images": gather(graph, pictures, prefix), "stages": lines, "columns": inputs["columns"]}
    graph[grid_id(prefix)] = {"class_type": GRID, "inputs": settings}
    return graph, [[grid_id(prefix), output] for output in range(3)]
