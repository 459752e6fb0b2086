"""Whole searches through ComfyUI's own executor: the loop, its errors, resuming, hold-out scores, one trial per run."""

import gc
import json
import math
import os
import subprocess
import sys

import comfy.model_management
import psutil
import pytest
import torch
from blockwork.blocks.weights import parse
from blockwork.search import host
from blockwork.tests.support import executor_kit as kit
from blockwork.tests.support.search_kit import (
    CALLS,
    CASES,
    DRAWN,
    FAULTS,
    IMAGES,
    LOOK,
    PLUS,
    SCORER,
    SLOW,
    ImageOfWeights,
    PlusOne,
    SlowPlus,
    prompt,
    rows,
)

pytest.importorskip("optuna")


def test_one_run_makes_all_trials_and_what_is_outside_runs_once():
    plus = {
        "5": {"class_type": PLUS, "inputs": {"text": "x"}},
        "6": {"class_type": IMAGES, "inputs": {"weights": ["2", 0]}},
    }
    executor = kit.Executor()
    graph = prompt(scorer={"plus": ["5", 0]}, tell={"images": ["6", 0]}, more=plus)
    assert executor.run(graph)
    assert PlusOne.calls == 1 and len(CALLS) == 6
    gc.collect()
    assert len(DRAWN) == 6 and not any(image() is not None for image in DRAWN), (
        "a trial leaves nothing in memory"
    )
    found = rows()
    assert [row.state for row in found] == ["complete"] * 6
    best = max(found, key=lambda row: row.scores)
    assert kit.KEPT["weights"] == best.weights and "6 with a score" in kit.KEPT["report"]
    for row in found:
        weights = parse(row.weights, "sd1")
        assert 0 <= weights.of("IN00", -1) <= 1 and weights.of("M00", -1) == 0.5
        assert not weights.is_named("OUT03")
        assert row.scores[0] == pytest.approx(1 - (weights.of("IN00", 0) - 0.3) ** 2)
    bars = [nodes["4"] for nodes in executor.progress() if "4" in nodes]
    assert bars[-1]["max"] == 6 and bars[-1]["value"] == 6

    assert kit.Executor().run(graph) and len(CALLS) == 6, "a finished study runs nothing"
    graph["2"]["inputs"]["trials"] = 8
    assert executor.run(graph) and len(CALLS) == 8 and len({row.weights for row in rows()}) == 8


@pytest.mark.parametrize(
    "fault, said", [(ValueError("no image today"), "no image today."), (math.nan, "nan"), ("text", "str")]
)
def test_a_trial_whose_score_fails_is_failed_with_a_sentence(fault, said):
    FAULTS[2] = fault
    assert kit.Executor().run(prompt())
    found = rows()
    assert [row.state for row in found] == ["complete", "failed", *["complete"] * 4]
    assert said in found[1].error and found[1].error[0].isupper() and found[1].error.endswith(".")

    FAULTS[len(CALLS) + 1] = fault
    with pytest.raises(RuntimeError, match="Trial 6 failed"):
        kit.Executor().run(prompt(ask={"on_error": "stop", "trials": 9}))
    assert rows()[6].state == "failed" and len(rows()) == 7


def test_a_score_that_always_fails_stops_the_run():
    FAULTS.update(dict.fromkeys(range(1, 100), RuntimeError("out of paper")))
    with pytest.raises(RuntimeError, match="out of paper"):
        kit.Executor().run(prompt(ask={"trials": 50}))
    assert len(CALLS) == 5 and all(row.error for row in rows())


def test_an_interrupted_run_keeps_what_is_finished_and_resumes():
    FAULTS[4] = comfy.model_management.InterruptProcessingException()
    assert not kit.Executor().run(prompt())
    assert [row.state for row in rows()] == ["complete"] * 3 + ["failed"] and rows()[3].error == ""
    assert kit.Executor().run(prompt())
    assert sum(row.state == "complete" for row in rows()) == 6 and len(CALLS) == 7


def test_a_run_that_is_stopped_between_two_trials_leaves_none_open(monkeypatch):
    ask = host.ask

    def stopped_meanwhile(*given):
        handle = ask(*given)
        comfy.model_management.interrupt_current_processing()
        return handle

    monkeypatch.setattr(host, "ask", stopped_meanwhile)
    assert not kit.Executor().run(prompt())
    assert [(row.state, row.error) for row in rows()] == [("failed", "")] and CALLS == []


def test_a_failed_trial_leaves_nothing_running():
    both = {
        "5": {"class_type": SLOW, "inputs": {"text": ["2", 0]}},
        "6": {"class_type": SCORER, "inputs": {"weights": ["2", 0]}},
    }
    FAULTS[1] = ValueError("broken")
    graph = prompt(ask={"trials": 2}, tell={"score": ["5", 0], "score_2": ["6", 0]}, more=both)
    assert kit.Executor().run(graph)
    assert [row.state for row in rows()] == ["failed", "complete"]
    assert SlowPlus.events == ["runs", "is cancelled", "runs"]


@pytest.mark.parametrize("image", [torch.full((1, 8, 8, 3), 0.5, dtype=torch.bfloat16), host.BLOCKED])
def test_images_that_numpy_cannot_read_do_not_end_a_search(image, monkeypatch):
    monkeypatch.setattr(ImageOfWeights, "draw", lambda self, weights: (image,))
    images = {"5": {"class_type": IMAGES, "inputs": {"weights": ["2", 0]}}}
    assert kit.Executor().run(prompt(tell={"images": ["5", 0]}, more=images))
    assert [row.state for row in rows()] == ["complete"] * 6


def test_nodes_in_the_loop_save_images_with_the_whole_workflow():
    look = {"5": {"class_type": LOOK, "inputs": {"weights": ["2", 0]}}}
    graph = prompt(ask={"trials": 1}, tell={"images": ["5", 0]}, more=look)
    assert kit.Executor().run(graph, workflow={"workflow": "drawn"})
    assert kit.KEPT["looked"] == (graph, {"workflow": "drawn"})


def test_one_trial_per_run_and_several_at_once():
    executor = kit.Executor()
    for count in (1, 2):
        assert executor.run(prompt(ask={"run": "one per run"})) and len(rows()) == count
    assert executor.run(prompt(ask={"run": "one per run", "at_once": 3}))
    assert [row.state for row in rows()] == ["complete"] * 5
    for row in rows():
        assert row.scores[0] == pytest.approx(-((parse(row.weights, "sd1").of("IN00", 0) - 0.3) ** 2))
    for _ in range(2):  # the last one, and none
        assert executor.run(prompt(ask={"run": "one per run", "at_once": 3})) and len(rows()) == 6
    assert kit.KEPT["study"] == "a study"


def test_a_trial_that_its_run_left_open_is_failed():
    FAULTS[1] = ValueError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        kit.Executor().run(prompt(ask={"run": "one per run"}))
    assert rows()[0].state == "running"
    assert kit.Executor().run(prompt(ask={"run": "one per run"}))
    assert [row.state for row in rows()] == ["failed", "complete"]


def test_the_best_are_scored_on_seeds_the_search_never_saw():
    cases = {**CASES, "inputs": dict(CASES["inputs"])}
    graph = prompt(scorer={"seed": ["5", 1]}, tell={"holdout": 2}, more={"5": cases})
    assert kit.Executor().run(graph)
    assert {seed for _, seed in CALLS[:12]} == {1, 2} and [seed for _, seed in CALLS[12:]] == [
        11,
        12,
        13,
        14,
    ] * 2
    best = host.read_study("a study").best(3)
    assert [len(row.holdout) for row in best] == [1, 1, 0]
    assert best[0].holdout[0] - best[0].scores[0] == pytest.approx(12.5 - 1.5)
    assert kit.Executor().run(graph) and len(CALLS) == 20
    graph["5"]["inputs"]["holdout_seeds"], graph["2"]["inputs"]["trials"] = "2-3", 9
    with pytest.raises(RuntimeError, match="hold-out"):
        kit.Executor().run(graph)
    assert not any(row.error for row in rows()), "an error that no weights cause is not the trial's"


def test_two_scores_and_the_result():
    graph = prompt(
        "IN00 = 0..1; IN01 = one 0..1",
        ask={"trials": 12},
        tell={"score_2": ["3", 0], "direction_2": "minimize"},
    )
    graph["9"] = {
        "class_type": "BlockworkSearchResult",
        "inputs": {"study": ["4", 0], "best": 3, "save_csv": False},
    }
    for output, name in enumerate(("weights", "candidates", "image", "report", "csv")):
        graph[f"r_{name}"] = {"class_type": kit.KEEP, "inputs": {"thing": ["9", output], "name": f"r_{name}"}}
    assert kit.Executor().run(graph)
    assert kit.KEPT["r_csv"].count("\n") == 13 and "score_2" in kit.KEPT["r_csv"].splitlines()[0]
    assert kit.KEPT["r_image"].ndim == 4 and kit.KEPT["r_image"].min() >= 0 and kit.KEPT["r_image"].max() <= 1
    assert "no other beats" in kit.KEPT["r_report"] and json.dumps(kit.KEPT["r_weights"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"space": "IN00 = 0.5"}, "no free weight"),
        ({"ask": {"study": "../x"}}, "not a valid name"),
        ({"ask": {"study": "postgresql://host/x"}}, "not a valid name"),
        ({"tell": {"holdout": 2}}, "Prompts and Seeds"),
        ({"tell": {"score": ["5", 1]}, "more": {"5": CASES}}, "does not depend on the weights"),
        ({"ask": {"sampler": "CMA-ES"}, "tell": {"score_2": ["3", 0]}}, "CMA-ES optimises one score"),
    ],
)
def test_what_cannot_run_says_so(change, message):
    with pytest.raises(RuntimeError, match=message):
        kit.Executor().run(prompt(**change))
    assert CALLS == []


def test_another_space_needs_another_name():
    assert kit.Executor().run(prompt(ask={"trials": 2}))
    with pytest.raises(RuntimeError, match="another search space"):
        kit.Executor().run(prompt("IN00 = 0..2"))


def test_which_servers_still_run():
    assert host.alive(host.owner()) is True
    node, pid, started = host.owner().split(" ")
    assert host.alive(f"{node} {pid} {float(started) - 100}") is False, "another process had this number"
    assert host.alive(f"elsewhere {pid} {started}") is None
    assert host.alive(f"{node} not-a-process") is False and host.alive("") is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no ended process")
def test_a_server_that_ended_does_not_run_before_its_parent_looks():
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    started = psutil.Process(ended.pid).create_time()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    node = host.owner().split(" ")[0]
    assert host.alive(f"{node} {ended.pid} {started:.2f}") is False
    ended.wait()


def by_eye(ranking="", ask=None, count=3):
    """Ask and Choose with a scorer-free image between them."""
    graph = prompt(ask={"at_once": count, "trials": 9, **(ask or {})})
    graph["3"] = {"class_type": IMAGES, "inputs": {"weights": ["2", 0]}}
    inputs = {"trial": ["2", 1], "images": ["3", 0], "ranking": ranking}
    graph["4"] = {"class_type": "BlockworkSearchChoose", "inputs": inputs}
    return graph


def shown(executor):
    outputs = [
        data["output"] for event, data in executor.messages if event == "executed" and data["node"] == "4"
    ]
    return outputs[-1]["blockwork_choice"][0]


def test_a_person_chooses_from_generations_beside_the_best():
    executor = kit.Executor()
    assert executor.run(by_eye())
    first = shown(executor)
    assert first["generation"] == 1 and [cell["number"] for cell in first["cells"]] == [0, 1, 2]
    assert not any(cell["best"] for cell in first["cells"]) and kit.KEPT["weights"] == ""
    assert kit.Executor().run(by_eye()) and len(rows()) == 3, (
        "without a ranking the same candidates are shown"
    )
    chosen = "generation 1: prefer 1, 2; reject 0"
    for _ in range(2):  # the second time the ranking is recorded already
        assert executor.run(by_eye(chosen))
        second = shown(executor)
        assert second["generation"] == 2 and [cell["number"] for cell in second["cells"]] == [1, 3, 4, 5]
        assert [cell["best"] for cell in second["cells"]] == [True, False, False, False]
        assert second["cells"][0]["weights"] == rows()[1].weights == kit.KEPT["weights"]
    assert "ranking of generation 1 is recorded" in kit.KEPT["report"]
    assert all(cell["file"]["filename"].endswith(".jpg") for cell in second["cells"])
    assert executor.run(by_eye("generation 2: reject 3, 4", ask={"trials": 6}))
    assert [cell["number"] for cell in shown(executor)["cells"]] == [1], "the study has its trials"
    assert "No new candidates beside trial 1" in kit.KEPT["report"]
    assert [row.rejected for row in rows()] == [True, False, False, True, True, False]


def test_what_cannot_be_chosen_says_so():
    assert kit.Executor().run(by_eye())
    with pytest.raises(RuntimeError, match="names trial 9"):
        kit.Executor().run(by_eye("generation 1: prefer 9"))
    with pytest.raises(RuntimeError, match="Cannot read the ranking"):
        kit.Executor().run(by_eye("the second one"))
    with pytest.raises(RuntimeError, match="made by eye"):
        kit.Executor().run(prompt())
    assert kit.Executor().run(prompt(ask={"study": "scored", "trials": 2}))
    with pytest.raises(RuntimeError, match="made with scores"):
        kit.Executor().run(by_eye(ask={"study": "scored"}))
    both = by_eye()
    both["5"] = {"class_type": SCORER, "inputs": {"weights": ["2", 0]}}
    both["6"] = {
        "class_type": "BlockworkSearchTell",
        "inputs": {"trial": ["2", 1], "score": ["5", 0], "direction": "maximize"},
    }
    with pytest.raises(RuntimeError, match="connected to 2 nodes"):
        kit.Executor().run(both)
    assert [row.state for row in rows()] == ["running"] * 3, "nothing is recorded"
