"""The search of block weights without ComfyUI: its grammar, studies that outlive a kill, known optima, duplicates."""

import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from blockwork.blocks.weights import parse
from blockwork.search import cases, scores
from blockwork.search.errors import SearchError
from blockwork.search.images import block_importance, draw_study
from blockwork.search.names import checked_name
from blockwork.search.report import csv_text, report
from blockwork.search.space import parse_space
from blockwork.search.storage import open_storage, read_settings
from blockwork.search.study import Study, stored_space
from refhost import layout

optuna = pytest.importorskip("optuna")
EXAMPLE = "IN00-IN05 = 0..1; M00 = 0.5; OUT = one 0.2..0.8; BASE = 0, 0.5, 1"


def memory():
    return optuna.storages.InMemoryStorage()


def test_the_grammar_of_spaces():
    space = parse_space(EXAMPLE, "sd1")
    assert list(space.parameters) == [*(f"IN{i:02}" for i in range(6)), "OUT", "BASE"]
    assert space.blocks_of("OUT") == tuple(f"OUT{i:02}" for i in range(12)) and space.blocks_of("IN03") == (
        "IN03",
    )
    values = dict.fromkeys(space.parameters, 0.25) | {"BASE": 0.5, "IN01": 0.123456}
    weights = space.weights(values)
    assert (
        weights.of("IN01", -1) == 0.1235 and weights.of("M00", -1) == 0.5 and weights.of("OUT11", -1) == 0.25
    )
    assert weights.of("BASE", -1) == 0.5 and not weights.is_named("IN06")
    assert parse(weights.text(), "sd1") == weights

    assert set(parse_space("ALL = 0..1\nIN = 0.3", "sd1").parameters) == {
        "M00",
        *(f"OUT{i:02}" for i in range(12)),
    }
    steps = parse_space("IN00 = 0..1 by 0.25; IN01 = one 0, 1", "sdxl")
    assert steps.size == 10
    assert parse_space("D = one 0..1; S00-S07 = 1, off", "flux").size == math.inf
    below = parse_space("GRAD_V; IN00 = 0..1", "sd1").weights({"IN00": 0.125})
    assert below.values[1:] == parse("GRAD_V", "sd1").values[1:] and below.values[0] == 0.125


def test_a_curve_is_a_plateau_with_slopes():
    space = parse_space("IN00-IN10 = curve 0.1..0.9", "sd1")
    shape = {"level": 0.9, "centre": 0.5, "width": 0.2, "slope left": 8.0, "slope right": 0.0}
    weights = space.weights({f"IN00-IN10 {name}": value for name, value in shape.items()})
    assert [weights.of(f"IN{i:02}", -1) for i in (0, 3, 4, 5, 10)] == [0.1, 0.26, 0.9, 0.9, 0.9]
    flat = space.weights(
        {f"IN00-IN10 {name}": value for name, value in (shape | {"slope left": 0.0, "level": 0.4}).items()}
    )
    assert {flat.of(f"IN{i:02}", -1) for i in range(11)} == {0.4}


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no free weight"),
        ("IN00 = 0.5", "no free weight"),
        ("IN00 = 1..0", "from the lower to the higher"),
        ("IN00 = 0..nan", "not a number"),
        ("IN00 = ", "no weight after"),
        ("IN99 = 0..1", "Unknown block 'IN99'"),
        ("IN00 = 0..1 by 3", "step"),
        ("IN00 = 0, 0", "twice"),
        ("IN00 = curve 0.5", "needs a range"),
        ("NO_SUCH_PRESET; IN00 = 0..1", "NO_SUCH_PRESET"),
        ("IN00 = off, 1; " * 1000, "characters"),
    ],
)
def test_a_bad_space_says_what_is_expected(text, said):
    with pytest.raises(ValueError, match=said) as error:
        parse_space(text, "sd1")
    assert str(error.value).endswith(".") and len(str(error.value)) < 700


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "x/y",
        "x\\y",
        "a\0b",
        "x" * 300,
        "postgresql://h/d",
        "",
        ".",
        "..",
        "a..b",
        "NUL",
        "con.log",
        " x",
        "x ",
        "x.",
        "a\nb",
        "~x",
    ],
)
def test_hostile_names_of_studies_are_refused(name, tmp_path):
    with pytest.raises(SearchError, match="not a valid name"):
        open_storage(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_plain_names_are_names():
    for name in ("my search", "a", "sdxl-2.1_b", "\u691c\u7d22 1"):
        assert checked_name(name) == name


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


POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed")
def test_two_processes_on_postgresql():
    pytest.importorskip("psycopg2", reason="the PostgreSQL driver psycopg2 is not installed")
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # PostgreSQL refuses root
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = Path(folder) / "data"
        run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
        subprocess.run(
            [POSTGRES[-1] / "initdb", "-D", data, "-A", "trust", "-U", "tester", "--no-sync"], **run
        )
        options = f"-p {port} -k {folder} -h 127.0.0.1 -F"
        subprocess.run(
            [POSTGRES[-1] / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start"], **run
        )
        try:
            two_processes(Path(folder) / "none", f"postgresql+psycopg2://tester@127.0.0.1:{port}/postgres")
        finally:
            subprocess.run([POSTGRES[-1] / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **run)


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


def test_scores():
    images = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    assert scores.pixel_distance(images, images) == 0
    assert scores.pixel_distance(images * 0, images[:1] * 0 + 0.5) == pytest.approx(0.5)
    with pytest.raises(SearchError, match="8 x 8 pixels and the reference 4 x 8"):
        scores.pixel_distance(images, images[:, :, :4])
    assert scores.cosine(torch.eye(2), torch.tensor([[3.0, 0.0]])) == pytest.approx(0.5)
    with pytest.raises(SearchError, match="not of one model"):
        scores.cosine(torch.eye(2), torch.eye(3))
    assert scores.weighted_sum([[1.0, 3.0], [4.0]], [1.0, -0.5]) == 0.0
    with pytest.raises(SearchError, match="not a valid answer"):
        scores.parse_wanted("style = oil", {"style": ("ink",)})


def test_prompts_and_seeds():
    found = cases.parse_cases("a\n\nb", "1, 3-4")
    assert found.pairs() == (["a"] * 3 + ["b"] * 3, [1, 3, 4] * 2)
    for prompts, seeds in (("", "1"), ("a", ""), ("a", "x"), ("a", "4-1"), ("a", "1-900")):
        with pytest.raises(SearchError):
            cases.parse_cases(prompts, seeds)
    with pytest.raises(SearchError, match="hold-out"):
        cases.check_apart(found, cases.parse_cases("b", "4"))


def test_without_optuna_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SearchError, match="pip install optuna"):
        open_storage(tmp_path, "a")
