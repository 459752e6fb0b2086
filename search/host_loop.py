"""The loop of a search: the nodes between Ask and Tell, run once per trial inside one prompt.

Tell expands into a Loop node that links to everything the nodes in between read from outside. The loop runs these nodes
with core's own executor functions, so lists, lazy inputs, blockers and expanding nodes work as usual, but keeps their
results only for one trial: memory stays flat, and an error fails one trial, not the prompt. What depends on the trial's
weights runs once per trial, the rest once.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any

import comfy.utils
import execution
import torch
from comfy_execution.graph import DynamicPrompt, ExecutionList, TopologicalSort
from comfy_execution.graph_utils import GraphBuilder, is_link
from comfy_execution.utils import get_executing_context

from . import host
from .errors import SearchError, SetupError
from .host import Handle
from .images import thumbnail

LOOP, CASES = "BlockworkSearchLoop", "BlockworkSearchCases"
MOST_FAILURES = 5  # in a row: then the fault is not in the weights
PREVIEW = 256  # pixels


def expand(prompt: Any, holdout: int, directions: list[str]) -> tuple[dict[str, Any], list[Any]]:
    """The graph that the running Tell node expands into, and the links of its outputs; ``prompt`` is core's DynamicPrompt."""
    context = get_executing_context()
    if context is None:
        raise RuntimeError("A search only runs as nodes of a ComfyUI prompt.")
    inputs = prompt.get_node(context.node_id)["inputs"]
    ask_id = inputs["trial"][0]
    wanted = {
        name: inputs[name]
        for name in (*host.SCORES[: len(directions)], "images")
        if is_link(inputs.get(name))
    }
    above = _above(prompt, [link[0] for link in wanted.values()])
    varying = _depending(above, ask_id, (host.WEIGHTS_OUTPUT,))
    if wanted.get(host.SCORES[0], [None])[0] not in varying:
        raise SearchError(
            "The score does not depend on the weights of Search: Ask. Connect the nodes in between."
        )
    body = _depending(above, ask_id, (host.WEIGHTS_OUTPUT, host.TRIAL_OUTPUT))
    body |= _only_lazily(prompt, above, body, ask_id)
    nodes = {node_id: above[node_id] for node_id in body}
    if holdout and not any(node["class_type"] == CASES for node in nodes.values()):
        raise SearchError(
            "Scores on other seeds and prompts need a Search: Prompts and Seeds node between Ask and Tell."
        )
    links = {tuple(link) for node in nodes.values() for link in node["inputs"].values() if is_link(link)}
    links |= {tuple(link) for link in wanted.values()}
    outside = sorted((link for link in links if link[0] not in body and link[0] != ask_id), key=str)
    plan = {
        "ask": ask_id, "tell": context.node_id, "body": sorted(body), "varying": sorted(varying), "wanted": wanted,
        "holdout": holdout, "outside": [list(link) for link in outside],
    }  # fmt: skip
    loop = f"{GraphBuilder.alloc_prefix()}loop"
    values = {f"value_{number}": list(link) for number, link in enumerate(outside)}
    node = {"class_type": LOOP, "inputs": {"trial": inputs["trial"], "plan": json.dumps(plan), **values}}
    return {loop: node}, [[loop, output] for output in range(3)]


def _above(prompt: Any, ends: Iterable[str]) -> dict[str, Any]:
    """The nodes ``ends`` and all that they read from."""
    found: dict[str, Any] = {}
    stack = list(ends)
    while stack:
        node_id = stack.pop()
        if node_id not in found:
            found[node_id] = prompt.get_node(node_id)
            stack += [link[0] for link in found[node_id]["inputs"].values() if is_link(link)]
    return found


def _depending(nodes: Mapping[str, Any], ask: str, outputs: Iterable[int]) -> set[str]:
    """Which of ``nodes`` depend on one of these outputs of Ask."""
    readers: dict[str, list[str]] = defaultdict(list)
    stack: list[str] = []
    for node_id, node in nodes.items():
        for link in filter(is_link, node["inputs"].values()):
            if link[0] != ask:
                readers[link[0]].append(node_id)
            elif link[1] in outputs:
                stack.append(node_id)
    found: set[str] = set()
    while stack:
        node_id = stack.pop()
        if node_id not in found:
            found.add(node_id)
            stack += readers[node_id]
    return found


def _only_lazily(prompt: Any, nodes: Mapping[str, Any], body: set[str], ask: str) -> set[str]:
    """The nodes that the body reads through lazy inputs alone: they run in the loop, once, when they are asked for."""
    order = TopologicalSort(prompt)
    lazy: set[str] = set()
    eager: set[str] = set()
    for node_id in body:
        for name, link in nodes[node_id]["inputs"].items():
            if is_link(link) and link[0] not in body and link[0] != ask:
                info = order.get_input_info(node_id, name)[2]
                (lazy if info and info.get("lazy") else eager).add(link[0])
    return _reached(nodes, lazy, ask) - _reached(nodes, eager, ask)


def _reached(nodes: Mapping[str, Any], ends: Iterable[str], ask: str) -> set[str]:
    """``ends`` and all that they read from, but not Ask."""
    found: set[str] = set()
    stack = list(ends)
    while stack:
        node_id = stack.pop()
        if node_id not in found and node_id != ask:
            found.add(node_id)
            stack += [link[0] for link in nodes[node_id]["inputs"].values() if is_link(link)]
    return found


class _Results:
    """A cache of core's executor that holds the results of one trial, and what is given from outside."""

    def __init__(self, entries: dict[str, Any] | None = None):
        self.entries = dict(entries or {})

    async def get(self, node_id: str) -> Any:
        return self.entries.get(node_id)

    def get_local(self, node_id: str) -> Any:
        return self.entries.get(node_id)

    async def set(self, node_id: str, value: Any) -> None:
        self.entries[node_id] = value

    def set_local(self, node_id: str, value: Any) -> None:
        self.entries[node_id] = value

    async def ensure_subcache_for(self, node_id: str, children: Iterable[str]) -> "_Results":
        return self

    def clean_unused(self) -> None:
        pass


class Body:
    """The nodes between Ask and Tell, ready to run with the weights of a trial; ``workflow`` is what images are saved with."""

    def __init__(self, prompt: Any, plan: dict[str, Any], values: list[list[Any]], workflow: Any):
        self.ask, self.wanted = plan["ask"], plan["wanted"]
        body = {node_id: prompt.get_node(node_id) for node_id in plan["body"]}
        self.nodes = {**prompt.get_original_prompt(), **body}  # nodes that save images read the whole prompt
        self.extra_data = {"extra_pnginfo": workflow}
        self.outside: dict[str, Any] = {}
        for (node_id, output), value in zip(plan["outside"], values, strict=True):
            entry = self.outside.setdefault(node_id, execution.CacheEntry(ui={}, outputs=[]))
            entry.outputs.extend([] for _ in range(output + 1 - len(entry.outputs)))
            entry.outputs[output] = value
        self.constant = set(plan["body"]) - set(plan["varying"])  # the weights do not change them
        self.kept: dict[bool, dict[str, Any]] = {False: {}, True: {}}  # their results, per phase
        self._objects = _Results()

    async def run(self, handle: Handle) -> dict[str, list[Any]]:
        """The values of Tell's connected inputs for one trial, as lists. What a node raises is raised."""
        trial = execution.CacheEntry(ui={}, outputs=[[handle.weights], [handle]])
        results = _Results({**self.outside, self.ask: trial, **self.kept[handle.holdout]})
        caches = SimpleNamespace(outputs=results, objects=self._objects, all=[results, self._objects])
        todo = ExecutionList(DynamicPrompt(self.nodes), results)
        for node_id, _ in self.wanted.values():
            if results.get_local(node_id) is None:
                todo.add_node(node_id)
        server, prompt_id = _server(), host.current_prompt()
        subgraphs, tasks, shown = {}, {}, {}
        try:
            while not todo.is_empty():
                node_id, _, fault = await todo.stage_node_execution()
                if fault is not None:
                    raise fault
                result, _, fault = await execution.execute(
                    server, todo.dynprompt, caches, node_id, self.extra_data, set(), prompt_id, todo,
                    subgraphs, tasks, shown,
                )  # fmt: skip
                if result == execution.ExecutionResult.FAILURE:
                    name = todo.dynprompt.get_node(node_id)["class_type"]
                    if isinstance(fault, Exception):
                        kind = SetupError if node_id in self.constant else SearchError
                        raise kind(f"{name}: {fault}") from fault
                    raise fault or SearchError(f"{name} failed.")
                if result == execution.ExecutionResult.PENDING:
                    todo.unstage_node_execution()
                else:
                    todo.complete_node_execution()
        finally:
            for task in chain.from_iterable(tasks.values()):  # left where another node has failed
                if isinstance(task, asyncio.Task):
                    task.cancel()
        for node_id in self.constant:
            if node_id in results.entries:
                self.kept[handle.holdout][node_id] = results.entries[node_id]
        return {name: list(results.entries[link[0]].outputs[link[1]]) for name, link in self.wanted.items()}


async def run_loop(
    prompt: Any, handle: Handle, plan_text: str, values: list[list[Any]], workflow: Any
) -> None:
    """Run trials until the study has as many as are set, then score the best ones on the hold-out prompts and seeds."""
    plan = json.loads(plan_text)
    study, settings = handle.study, handle.settings
    body = Body(prompt, plan, values, workflow)
    bar = comfy.utils.ProgressBar(settings.trials, node_id=plan["tell"])
    failures, best = 0, host.best_row(study)
    bar.update_absolute(study.done(), settings.trials)
    while trial := host.ask(study, settings):
        image, error = await _one(body, trial)
        failures = failures + 1 if error else 0
        if error and (not settings.skip_failed or failures >= MOST_FAILURES):
            raise SearchError(f"Trial {trial.number} failed. {error}")
        now, preview = host.best_row(study), None
        if (
            image is not None
            and len(image)
            and now is not None
            and (best is None or now.number != best.number)
        ):
            preview = ("JPEG", thumbnail(image[0].float().cpu().numpy(), PREVIEW), PREVIEW)
        best = now
        bar.update_absolute(study.done(), settings.trials, preview)
    for row in study.best(plan["holdout"]):
        if not row.holdout:
            found = await body.run(host.with_weights(handle, row.number, row.weights))
            study.set_holdout(
                row.number, host.mean_scores([found[name] for name in host.SCORES if name in found])
            )


async def _one(body: Body, trial: Handle) -> tuple[Any, str]:
    """Run and record one trial: its images (None without) and what went wrong. A stopped trial is failed without an error."""
    study, number = trial.study, trial.number
    assert number is not None
    try:
        found = await body.run(trial)
        scores = host.mean_scores([found[name] for name in host.SCORES if name in found])
        study.tell(number, scores, trial.seconds())
        images = (image for image in found.get("images", ()) if isinstance(image, torch.Tensor))
        return next(images, None), ""
    except SetupError:
        study.fail(number, "")
        raise
    except Exception as error:
        message = _sentence(error)
        if number in study.open_numbers():
            study.fail(number, message, trial.seconds())
        return None, message
    except BaseException:  # core's interrupt
        study.fail(number, "")
        raise


def _sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


class _Silent:
    """In the place of the server where there is none."""

    client_id = None
    last_node_id = None


def _server() -> Any:
    from server import PromptServer

    return getattr(PromptServer, "instance", None) or _Silent()
