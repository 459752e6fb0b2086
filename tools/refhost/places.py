"""Groups of a drawn workflow, and the places of its nodes in them.

The groups stand side by side in the order in which a workflow runs, or in two rows where that makes them much larger in the window.
In a group, nodes stand in columns by how far
they are from the group's sources; in each column in the order that crosses the fewest links.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TITLE, GAP_X, GAP_Y, PADDING, GROUP_TITLE = 30, 70, 60, 25, 45  # canvas units
SWEEPS = 4
WINDOW = 1.8  # width by height of the canvas
NOTE = 620  # room for the note
GAIN = 1.15  # how much larger two rows must open
LEAST_HEIGHT = 1500  # a column wraps above this or the square root of the nodes' area, whichever is more
MODELS, PROMPTS, WORK, SAMPLING, OUTPUT = "Models", "Prompts", "Blockwork", "Sampling", "Output"
BOTH = "Sampling and output"
COLOURS = {
    MODELS: "#3f789e", PROMPTS: "#8a8", WORK: "#b58b2a", SAMPLING: "#a1309b", OUTPUT: "#b06634", BOTH: "#a1309b",
}  # fmt: skip
ORDERS = ((MODELS, PROMPTS, WORK, SAMPLING, OUTPUT), (MODELS, WORK, PROMPTS, SAMPLING, OUTPUT))
MOST_GROUPS = 4
CHAINED = "ImageBatch"  # a chain of these stands in one column
KINDS = (  # the first that matches a node's type, in the order in which types are searched
    (MODELS, r"Loader|^LoadImage$|LoadDeprojector|Stages$|CascadeStage$"),
    (PROMPTS, r"TextEncode$|BlockPromptEncode|EncodeXTI|^Conditioning"),
    (OUTPUT, r"VAEDecode|ImageBatch|ImageSheet|RatingSheet|^Save|^Preview|InjectionPlan|XTIDensity|Report$"),
    (OUTPUT, r"^Blockwork(Save(XTI|Deprojector))"),
    (SAMPLING, r"Sampl|Latent|Noise|Guider|Sigmas|LowRes|BlockSweep|BlockGrowth|BlockworkCascade$|VAEEncode|Mask|ImageScale"),
)  # fmt: skip
WORKS = (
    ("Injection", r"Inject|BlockPreset"),
    ("Embeddings", r"Deproject|Embedding|EncodeAndMerge|CLIPVision|EmptyImage"),
    ("LoRA", r"LoRA|Hook"),
    ("Learned words", r"XTI"),
    ("Recipe", r"Recipe"),
    ("Comparison", r"Compare"),
    ("Threshold", r"Threshold"),
    ("Style", r"StylePrompt"),
    ("Merge", r"Merge|AddDifference|BlockWeights"),
)


@dataclass
class Box:
    """A node on the canvas."""

    key: str
    kind: str
    size: tuple[int, int]
    inputs: Sequence[Any] = ()
    sources: list[str] = field(default_factory=list)
    group: str = ""
    column: int = 0
    row: float = 0
    at: tuple[int, int] = (0, 0)


def arrange(boxes: dict[str, Box]) -> list[dict[str, Any]]:
    """Gives every box its group and place, and returns the groups as the canvas keeps them.

    ``boxes`` must not run in a circle.
    """
    order = _assign(boxes)
    used = [name for name in order if any(box.group == name for box in boxes.values())]
    if len(used) > MOST_GROUPS:
        for box in boxes.values():
            box.group = BOTH if box.group in (SAMPLING, OUTPUT) else box.group
        used = [*used[:-2], BOTH]
    area = sum((box.size[0] + GAP_X) * (box.size[1] + TITLE + GAP_Y) for box in boxes.values())
    limit = max(LEAST_HEIGHT, 0.8 * area**0.5)
    targets = {key: [b.key for b in boxes.values() if key in b.sources] for key in boxes}
    groups, x = [], 0
    for number, name in enumerate(used, start=1):
        members = {key: box for key, box in boxes.items() if box.group == name}
        columns = _wrap(_columns(members, targets, boxes), limit)
        left, bottom = x, 0
        for column in columns:
            y = 0
            for box in column:
                box.at = (x, y)
                y += TITLE + box.size[1] + GAP_Y
            bottom = max(bottom, y - GAP_Y - TITLE)
            x += max(box.size[0] for box in column) + GAP_X
        right = x - GAP_X + PADDING
        top = -TITLE - PADDING - GROUP_TITLE
        groups.append(
            {
                "id": number,
                "title": _work(members) if name == WORK else name,
                "bounding": [left - PADDING, top, right - left + PADDING, bottom + PADDING - top],
                "color": COLOURS[name],
                "font_size": 24,
                "flags": {},
            }
        )
    _two_rows(groups, used, boxes)
    return groups


def _two_rows(groups: list[dict[str, Any]], used: Sequence[str], boxes: Mapping[str, Box]) -> None:
    """Moves the last groups below the first ones where the whole then opens at a larger zoom."""

    def zoom(*rows: list[dict[str, Any]]) -> float:
        spans = [[group["bounding"] for group in row] for row in rows]
        width = max(row[-1][0] + row[-1][2] - row[0][0] for row in spans)
        height = sum(max(box[3] for box in row) for row in spans) + GAP_Y * (len(spans) - 1)
        return min(WINDOW / (width + NOTE), 1 / height)

    cuts = {cut: zoom(groups[:cut], groups[cut:]) for cut in range(1, len(groups))}
    cut = max(cuts, key=lambda number: cuts[number], default=0)
    if not cut or cuts[cut] < GAIN * zoom(groups):
        return
    down = max(group["bounding"][3] for group in groups[:cut]) + GAP_Y
    left = groups[cut]["bounding"][0] - groups[0]["bounding"][0]
    for box in boxes.values():
        if box.group in used[cut:]:
            box.at = (box.at[0] - left, box.at[1] + down)
    for group in groups[cut:]:
        group["bounding"][0] -= left
        group["bounding"][1] += down


def _own(kind: str) -> str:
    found = next((group for group, pattern in KINDS if re.search(pattern, kind)), "")
    return found or (SAMPLING if kind.startswith("Solid") else WORK)


def _assign(boxes: dict[str, Box]) -> Sequence[str]:
    """Sets the groups; a source never stands in a later group than what it feeds. Returns the order of the groups."""
    topological = _sorted(boxes)
    own = {key: _own(boxes[key].kind) for key in topological}
    results = []
    for order in ORDERS:
        rank = {key: order.index(group) for key, group in own.items()}
        for key in reversed(topological):  # a decoded image that is sampled again belongs to the sampling
            for source in boxes[key].sources:
                if own[source] == OUTPUT:
                    rank[source] = min(rank[source], max(rank[key], order.index(SAMPLING)))
        for key in topological:
            rank[key] = max([rank[key], *(rank[source] for source in boxes[key].sources)])
        results.append((sum(order[rank[key]] != own[key] for key in own), order, rank))
    _, order, rank = min(results, key=lambda result: result[0])
    for key, box in boxes.items():
        box.group = order[rank[key]]
    return order


def _sorted(boxes: Mapping[str, Box]) -> list[str]:
    found: dict[str, None] = {}

    def visit(key: str) -> None:
        for source in boxes[key].sources:
            if source not in found:
                visit(source)
        found[key] = None

    for key in boxes:
        if key not in found:
            visit(key)
    return list(found)


def _work(members: Mapping[str, Box]) -> str:
    """The title of the group of Blockwork's own steps: at most two kinds, the most frequent first."""
    counts: dict[str, int] = {}
    for box in members.values():
        for title in [title for title, pattern in WORKS if re.search(pattern, box.kind)][:1]:
            counts[title] = counts.get(title, 0) + 1
    titles = sorted(counts, key=lambda title: -counts[title])[:2] or [WORK]
    return titles[0] if len(titles) == 1 else f"{titles[0]} and {titles[1][0].lower()}{titles[1][1:]}"


def _columns(
    members: dict[str, Box], targets: Mapping[str, list[str]], boxes: Mapping[str, Box]
) -> list[list[Box]]:
    """Columns of one group: by distance from its sources, rows by the mean of the neighbours."""
    for key in _sorted(boxes):
        box = boxes[key]
        if key in members:
            depths = [
                members[s].column + (not members[s].kind == box.kind == CHAINED)
                for s in box.sources
                if s in members
            ]
            box.column = max(depths, default=0)
    for key, box in members.items():  # a source stands right before the first that needs it
        fed = [members[target].column for target in targets[key] if target in members]
        if fed and not any(source in members for source in box.sources):
            box.column = max(min(fed) - 1, 0)
    columns: dict[int, list[Box]] = {}
    for box in members.values():
        columns.setdefault(box.column, []).append(box)
    for column in columns.values():
        for row, box in enumerate(column):
            box.row = row
    for sweep in range(SWEEPS):
        for index in sorted(columns, reverse=bool(sweep % 2)):
            column = columns[index]
            neighbours = {box.key: targets[box.key] if sweep % 2 else box.sources for box in column}
            mean = {b.key: _mean([boxes[k].row for k in neighbours[b.key]], b.row) for b in column}
            column.sort(key=lambda box, mean=mean: (mean[box.key], box.row))
            for row, box in enumerate(column):
                box.row = row
    return [columns[index] for index in sorted(columns)]


def _wrap(columns: list[list[Box]], limit: float) -> list[list[Box]]:
    """The columns, those above the limit cut into several."""
    wrapped: list[list[Box]] = []
    for column in columns:
        height = limit + 1.0
        for box in column:
            tall = box.size[1] + TITLE + GAP_Y
            if height + tall > limit:
                wrapped.append([])
                height = 0
            wrapped[-1].append(box)
            height += tall
    return wrapped


def _mean(rows: list[float], otherwise: float) -> float:
    return sum(rows) / len(rows) if rows else otherwise
