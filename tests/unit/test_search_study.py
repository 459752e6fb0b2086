"""Studies without ComfyUI: known optima, duplicates, resuming, storages, two processes of which one is killed."""

import json
import math
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from blockwork.blocks.weights import parse
from blockwork.search.errors import SearchError
from blockwork.search.images import block_importance, draw_study
from blockwork.search.report import csv_text, report
from blockwork.search.space import parse_space
from blockwork.search.storage import open_storage, read_settings
from blockwork.search.study import Study, stored_space
from blockwork.tests.support.postgres import postgresql
from refhost import layout

optuna = pytest.importorskip("optuna")


def memory():
    return optuna.storages.InMemoryStorage()


def test_the_settings_file_of_an_administrator(tmp_path):
    path = tmp_path / "search.json"
    assert read_settings(path) == ""
    path.write_text(json.dumps({"storage": f"sqlite:///{tmp_path}/all.db"}))
    storage = open_storage(tmp_path / "none", "a", read_settings(path))
    study = Study(storage, "a", parse_space("IN00 = 0..1", "sd1"), ["maximize"])
    study.tell(study.ask("random", 0)[0], [1.0])
    assert stored_space(storage, "a")[0].text == "IN00 = 0..1" and (tmp_path / "all.db").exists()
    for bad in ("[]", "{", '{"storage": 3}', '{"storage": "file:///etc/passwd"}'):
        path.write_text(bad)
        with pytest.raises(SearchError, match="settings file"):
            read_settings(path)
    with pytest.raises(SearchError, match="cannot be opened") as error:
        open_storage(tmp_path, "a", "postgresql+nodriver://user:secret@nowhere/db")
    assert "secret" not in str(error.value)


def optimum(space):
    return {block: random.Random(block).uniform(0.1, 0.9) for block in space.rules}


def distance(space, text):
    weights = parse(text, space.layout)
    return sum((weights.of(block, 0) - best) ** 2 for block, best in optimum(space).items())


@pytest.mark.parametrize(
    "sampler, text, trials", [("TPE", "IN00-IN05 = 0..1", 30), ("CMA-ES", "IN = 0..1", 50)]
)
def test_a_known_optimum_is_found_better_than_by_chance(sampler, text, trials):
    """At least nine of ten seeds, at an equal budget; every trial in its range, what is frozen never moves."""
    pytest.importorskip("cmaes")
    space = parse_space(f"{text}; BASE = 0.5", "sd1")
    found = {}
    for name in (sampler, "random"):
        for seed in range(10):
            study = Study(memory(), "a", space, ["minimize"])
            for _ in range(trials):
                number, weights = study.ask(name, seed)
                study.tell(number, [distance(space, weights)])
            found[name, seed] = study.best()[0].scores[0]
            for row in study.rows():
                read = parse(row.weights, "sd1")
                assert all(0 <= read.of(block, -1) <= 1 for block in space.parameters)
                assert read.of("BASE", -1) == 0.5 and len({*read.extra}) == 1
    assert sum(found[sampler, seed] < found["random", seed] for seed in range(10)) >= 9


@pytest.mark.parametrize("sampler", ["TPE", "QMC", "GP", "random"])
def test_equal_weights_are_tried_once_and_a_finite_space_ends(sampler):
    study = Study(memory(), "a", parse_space("IN00 = 0, 0.5, 1; IN01 = 0, 1", "sd1"), ["maximize"])
    seen = []
    while asked := study.ask(sampler, 3):
        seen.append(asked[1])
        study.tell(asked[0], [len(seen)])
    assert len(seen) == len(set(seen)) == 6 == study.done() == len(study.rows())


@pytest.mark.parametrize(
    "text, count",
    [("0..1 by 0.3", 4), ("0.1..0.7 by 0.2", 4), ("-0.3..0.3 by 0.1", 7), ("0..1 by 0.0001", 10001)],
)
def test_every_step_of_a_range_is_reached(text, count):
    space = parse_space(f"IN00 = {text}", "sd1")
    study = Study(memory(), "a", space, ["maximize"])
    assert space.size == count
    if count > 100:
        assert study.ask("random", 0)
        return
    seen = set()
    while asked := study.ask("random", 0):
        seen.add(parse(asked[1], "sd1").of("IN00", -1))
        study.tell(asked[0], [0.0])
    low, step = (float(number) for number in (text.partition("..")[0], text.rpartition(" ")[2]))
    assert sorted(seen) == [pytest.approx(low + n * step) for n in range(count)]
    assert len(study._study.trials) < 60, "repeated weights are few"


def test_weights_that_another_server_drew_meanwhile_are_not_tried_again():
    storage, space = memory(), parse_space("IN00 = 0, 1", "sd1")
    slow, fast = (Study(storage, "a", space, ["maximize"], owner) for owner in ("slow", "fast"))
    taken, ask = [], slow._study.ask

    def ask_slowly(distributions):
        trial = ask(distributions)  # it has the lowest number, and the others do not know its weights yet
        taken.extend(fast.ask("random", 0) for _ in range(0 if taken else 2))
        return trial

    slow._study.ask = ask_slowly
    assert slow.ask("random", 0) is None, "the other server runs both weights"
    assert [row.weights for row in slow.rows()] == [weights for _, weights in taken]


def test_the_gaussian_process_fits_where_comfyui_switches_gradients_off():
    study = Study(memory(), "a", parse_space("IN00-IN01 = 0..1", "sd1"), ["minimize"])
    with torch.inference_mode():
        for _ in range(16):
            number, weights = study.ask("GP", 0)
            study.tell(number, [distance(study.space, weights)])
    assert study.best()[0].scores[0] < min(row.scores[0] for row in study.rows()[:10])


def test_a_study_goes_on_with_the_same_trials_after_it_was_opened_again(tmp_path):
    space = parse_space("IN00-IN03 = 0..1", "sd1")

    def run(folder, parts):
        found = []
        for count in parts:
            study = Study(open_storage(folder, "a"), "a", space, ["minimize"])
            for _ in range(count):
                number, weights = study.ask("TPE", 5)
                study.tell(number, [distance(space, weights)])
                found.append(weights)
        return found

    assert run(tmp_path / "1", (14,)) == run(tmp_path / "2", (3, 10, 1))
    with pytest.raises(SearchError, match="another search space"):
        Study(open_storage(tmp_path / "1", "a"), "a", parse_space("IN00 = 0..1", "sd1"), ["minimize"])
    with pytest.raises(SearchError, match="made to minimize"):
        Study(open_storage(tmp_path / "1", "a"), "a", space, ["maximize"])


def test_an_unfinished_last_line_is_cut_off(tmp_path):
    space = parse_space("IN00 = 0..1", "sd1")
    study = Study(open_storage(tmp_path, "a"), "a", space, ["maximize"])
    study.tell(study.ask("random", 0)[0], [1.0])
    with (tmp_path / "a.log").open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    again = Study(open_storage(tmp_path, "a"), "a", space, ["maximize"])
    again.tell(again.ask("random", 0)[0], [2.0])
    assert [row.scores for row in Study(open_storage(tmp_path, "a"), "a", space, ["maximize"]).rows()] == [
        (1.0,),
        (2.0,),
    ]


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from refhost.pack import load_pack
load_pack()
from pathlib import Path
from blockwork.search.space import parse_space
from blockwork.search.storage import open_storage
from blockwork.search.study import Study
folder, address, owner, trials = Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
space = parse_space("IN00-IN01 = 0..1 by 0.05", "sd1")
study = Study(open_storage(folder, "a", address), "a", space, ["maximize"], owner)
while study.done() < trials:
    number, weights = study.ask("random", 7)
    print("asked", number, flush=True)
    time.sleep(0.02)
    study.tell(number, [number])
    print("told", number, flush=True)
"""


def worker(folder, owner, trials, address=""):
    arguments = [
        sys.executable,
        "-c",
        WORKER,
        str(layout.ROOT / "tools"),
        str(folder),
        address,
        owner,
        str(trials),
    ]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def told(output):
    return {int(line.split()[1]) for line in output.splitlines() if line.startswith("told")}


def two_processes(folder, address=""):
    """Two processes on one study; one is killed half-way: no trial twice, all recorded, only its running trial lost."""
    space = parse_space("IN00-IN01 = 0..1 by 0.05", "sd1")
    first, second = worker(folder, "first", 40, address), worker(folder, "second", 40, address)
    lines = [first.stdout.readline() for _ in range(12)]
    first.send_signal(signal.SIGKILL)
    rest, others = first.communicate()[0], second.communicate()[0]
    assert second.returncode == 0
    finished = told("".join(lines) + rest) | told(others)
    study = Study(open_storage(folder, "a", address), "a", space, ["maximize"], "third")
    study.release(lambda owner: owner != "first")
    rows = study.rows()
    complete = [row for row in rows if row.state == "complete"]
    assert finished <= {row.number for row in complete} and 40 <= len(complete) <= 41
    assert len({row.weights for row in complete}) == len(complete)
    assert [row.state for row in rows if row.state != "complete"] in ([], ["failed"])
    number, _ = study.ask("random", 7)
    study.tell(number, [1.0])
    assert study.done() == len(complete) + 1


def test_two_processes_on_one_journal_and_one_is_killed(tmp_path):
    two_processes(tmp_path)


def test_two_processes_on_postgresql(tmp_path):
    with postgresql() as address:
        two_processes(tmp_path / "none", address)


def test_a_score_that_is_not_a_number_fails_its_trial():
    study = Study(memory(), "a", parse_space("IN00 = 0..1", "sd1"), ["maximize"])
    for bad in (math.nan, math.inf):
        number, _ = study.ask("random", 0)
        with pytest.raises(SearchError, match=f"Trial {number} failed: The score is"):
            study.tell(number, [bad])
    number, _ = study.ask("random", 0)
    with pytest.raises(SearchError, match="2 scores are given for 1"):
        study.tell(number, [1.0, 2.0])
    assert [row.state for row in study.rows()] == ["failed"] * 3 and all(row.error for row in study.rows())
    with pytest.raises(SearchError, match="not open in this run"):
        study.tell(99, [1.0])


@pytest.mark.parametrize(
    "text, layout_name", [("IN = one 0..1; M00 = 0..1", "sd1"), ("D = one 0..1; S00-S02 = 0..1", "flux")]
)
def test_importance_finds_the_block_that_matters(text, layout_name):
    space = parse_space(text, layout_name)
    study = Study(memory(), "a", space, ["maximize"])
    key = next(iter(space.parameters))
    first = space.blocks_of(key)[0]
    for _ in range(30):
        number, weights = study.ask("random", 1)
        study.tell(number, [-((parse(weights, layout_name).of(first, 0) - 0.7) ** 2)])
    shares = block_importance(study)
    assert all(shares[block] == 1.0 for block in space.blocks_of(key)) and min(shares.values()) < 0.5
    image = draw_study(study)
    assert image.ndim == 3 and image.dtype == "float32" and image.min() >= 0 and image.max() <= 1
    assert "Importance" in report(study) and len(csv_text(study).splitlines()) == 31
