"""What may stand between Ask and Tell: nodes that expand, save, wait, list, or read lazily, as on any other place of a graph."""

from pathlib import Path

import folder_paths
import pytest
import torch
from blockwork.search import host
from blockwork.tests.support import executor_kit as kit
from blockwork.tests.support.search_kit import (
    CALLS,
    CASES,
    FAULTS,
    IMAGES,
    PLUS,
    PlusOne,
    SlowPlus,
    prompt,
    rows,
)
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder

import nodes as core

pytest.importorskip("optuna")
WEIGHTS = ("STRING", {"forceInput": True})


def node(name, function, required, returns=("FLOAT",), **more):
    """A node class of the old form, made known to the executor."""
    members = {
        "RETURN_TYPES": returns, "FUNCTION": "run", "CATEGORY": "", "run": function,
        "INPUT_TYPES": classmethod(lambda cls: {"required": required}), **more,
    }  # fmt: skip
    core.NODE_CLASS_MAPPINGS[name] = type(name, (), members)
    return name


def test_a_node_that_expands_runs_in_every_trial():
    def grow(self, weights, plus):
        graph = GraphBuilder()
        scored = graph.node("ScoreOfWeights", weights=weights, plus=plus)
        return {"result": (scored.out(0),), "expand": graph.finalize()}

    grown = node("Grow", grow, {"weights": WEIGHTS, "plus": ("FLOAT", {"rawLink": True})})
    more = {
        "5": {"class_type": PLUS, "inputs": {"text": "x"}},
        "6": {"class_type": grown, "inputs": {"weights": ["2", 0], "plus": ["5", 0]}},
    }
    assert kit.Executor().run(prompt(tell={"score": ["6", 0]}, more=more))
    assert len(CALLS) == 6 and len({row.scores for row in rows()}) == 6 and PlusOne.calls == 1
    assert all(0.5 <= row.scores[0] <= 1 for row in rows())


def test_an_output_node_in_the_chain_runs_once_per_trial():
    saved = []

    def keep(self, images):
        saved.append(images)
        return {"ui": {"text": ["kept"]}, "result": (images,)}

    kept = node("KeepImages", keep, {"images": ("IMAGE", {})}, ("IMAGE",), OUTPUT_NODE=True)
    more = {
        "5": {"class_type": IMAGES, "inputs": {"weights": ["2", 0]}},
        "6": {"class_type": kept, "inputs": {"images": ["5", 0]}},
    }
    assert kit.Executor().run(prompt(ask={"trials": 3}, tell={"images": ["6", 0]}, more=more))
    assert len(saved) == 3 and all(isinstance(images, torch.Tensor) for images in saved)


def test_a_node_that_waits_is_waited_for():
    SlowPlus.events.append("not the first")  # only the first call takes long
    more = {"5": {"class_type": "SlowPlus", "inputs": {"text": ["2", 0]}}}
    assert kit.Executor().run(prompt(ask={"trials": 2}, tell={"score": ["5", 0]}, more=more))
    assert [row.scores for row in rows()] == [(1.0,)] * 2


def test_lists_count_with_their_mean_and_nodes_that_take_lists_get_them():
    def several(self, weights):
        return ([0.0, 1.0, 5.0],)

    def count(self, numbers):
        return (float(len(numbers)),)

    more = {
        "5": {"class_type": node("Several", several, {"weights": WEIGHTS}, OUTPUT_IS_LIST=(True,)), "inputs": {"weights": ["2", 0]}},
        "6": {"class_type": node("Count", count, {"numbers": ("FLOAT", {})}, INPUT_IS_LIST=True), "inputs": {"numbers": ["5", 0]}},
    }  # fmt: skip
    assert kit.Executor().run(
        prompt(ask={"trials": 1}, tell={"score": ["5", 0], "score_2": ["6", 0]}, more=more)
    )
    assert rows()[0].scores == (2.0, 3.0)


def switch():
    """A node that reads ``other`` only where it is told to."""

    def wanted(self, weights, ask, other=None):
        return ["other"] if ask and other is None else []

    def choose(self, weights, ask, other=None):
        return (float(len(weights)) if other is None else other,)

    inputs = {
        "weights": WEIGHTS,
        "ask": ("BOOLEAN", {}),
        "other": ("FLOAT", {"lazy": True, "forceInput": True}),
    }
    return node("Choose", choose, inputs, check_lazy_status=wanted)


@pytest.mark.parametrize("ask", [False, True])
def test_what_only_a_lazy_input_reads_runs_where_it_is_asked_for(ask):
    broken = []

    def fail(self, text):
        broken.append(text)
        raise ValueError("not to be run")

    more = {
        "5": {"class_type": node("Fail", fail, {"text": ("STRING", {})}), "inputs": {"text": "x"}},
        "6": {"class_type": switch(), "inputs": {"weights": ["2", 0], "ask": ask, "other": ["5", 0]}},
    }
    graph = prompt(ask={"trials": 3}, tell={"score": ["6", 0]}, more=more)
    if ask:
        with pytest.raises(RuntimeError, match="not to be run"):  # no weights cause it: not the trial's error
            kit.Executor().run(graph)
        assert len(broken) == 1
    else:
        assert kit.Executor().run(graph) and not broken
        assert [row.state for row in rows()] == ["complete"] * 3


def test_what_a_lazy_input_shares_with_others_runs_once():
    more = {
        "5": {"class_type": PLUS, "inputs": {"text": "x"}},
        "6": {"class_type": switch(), "inputs": {"weights": ["2", 0], "ask": True, "other": ["5", 0]}},
        "7": {"class_type": "ScoreOfWeights", "inputs": {"weights": ["2", 0], "plus": ["5", 0]}},
    }
    graph = prompt(ask={"trials": 3}, tell={"score": ["6", 0], "score_2": ["7", 0]}, more=more)
    executor = kit.Executor()
    assert executor.run(graph) and PlusOne.calls == 1
    graph["2"]["inputs"]["trials"] = 5
    assert executor.run(graph) and PlusOne.calls == 1, "what is outside stays in ComfyUI's cache"


@pytest.mark.parametrize("on_error", ["skip the trial", "stop"])
def test_an_image_of_another_size_fails_its_trial(on_error):
    drawn = []

    def draw(self, weights):
        drawn.append(weights)
        return (torch.zeros(1, 8, 16 if len(drawn) == 2 else 8, 3),)

    more = {
        "5": {"class_type": node("Draw", draw, {"weights": WEIGHTS}, ("IMAGE",)), "inputs": {"weights": ["2", 0]}},
        "6": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "7": {"class_type": "BlockworkScoreImage", "inputs": {"images": ["5", 0], "reference": ["6", 0], "measure": "pixels (distance)"}},
    }  # fmt: skip
    graph = prompt(
        ask={"trials": 4, "on_error": on_error}, tell={"score": ["7", 0], "images": ["5", 0]}, more=more
    )
    if on_error == "stop":
        with pytest.raises(RuntimeError, match=r"Trial 1 failed.*16 x 8 pixels and the reference 8 x 8"):
            kit.Executor().run(graph)
    else:
        assert kit.Executor().run(graph)
    states = [row.state for row in rows()]
    assert states == (
        ["complete", "failed"] if on_error == "stop" else ["complete", "failed", "complete", "complete"]
    )
    assert (
        rows()[1].error
        == "BlockworkScoreImage: The images are 16 x 8 pixels and the reference 8 x 8. Use one size."
    )


@pytest.mark.parametrize(
    "fault, said",
    [(10**400, "beyond the range"), (True, "The score is bool"), (ExecutionBlocker(None), "blocked")],
)
@pytest.mark.parametrize("run", ["all trials", "one per run"])
def test_a_score_that_is_no_score_fails_its_trial(fault, said, run):
    FAULTS[1] = fault
    assert kit.Executor().run(prompt(ask={"trials": 2, "run": run}))
    if not (run == "one per run" and isinstance(fault, ExecutionBlocker)):  # a blocked Tell does not run
        assert rows()[0].state == "failed" and said in rows()[0].error


def test_no_image_is_no_preview():
    def draw(self, weights):
        return (torch.zeros(0, 8, 8, 3),)

    more = {
        "5": {
            "class_type": node("Draw", draw, {"weights": WEIGHTS}, ("IMAGE",)),
            "inputs": {"weights": ["2", 0]},
        }
    }
    assert kit.Executor().run(prompt(ask={"trials": 2}, tell={"images": ["5", 0]}, more=more))
    assert [row.state for row in rows()] == ["complete"] * 2


def test_a_hold_out_score_that_is_no_number_says_so():
    FAULTS.update(dict.fromkeys(range(5, 20), float("nan")))  # two trials of two images come first
    graph = prompt(ask={"trials": 2}, scorer={"seed": ["5", 1]}, tell={"holdout": 1}, more={"5": CASES})
    with pytest.raises(RuntimeError, match=r"hold-out score of trial . is nan"):
        kit.Executor().run(graph)
    assert [row.state for row in rows()] == ["complete"] * 2 and not any(row.holdout for row in rows())


def test_two_searches_in_one_workflow_do_not_disturb_each_other():
    graph = prompt(ask={"trials": 3})
    other = prompt(ask={"trials": 2, "study": "another"})
    for key, entry in other.items():
        inputs = {
            name: [f"b{link[0]}", link[1]] if isinstance(link, list) else link
            for name, link in entry["inputs"].items()
        }
        graph[f"b{key}"] = {**entry, "inputs": inputs}
    assert kit.Executor().run(graph)
    assert len(rows()) == 3 and len(host.read_study("another").rows()) == 2 and len(CALLS) == 5


def test_only_the_study_is_written():
    assert kit.Executor().run(prompt(ask={"trials": 3}))
    files = [path.name for path in Path(folder_paths.get_user_directory()).rglob("*") if path.is_file()]
    assert files == ["a study.log"]
