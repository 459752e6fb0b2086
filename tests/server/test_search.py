"""Searches on real servers: the template on the demo models, and two servers on one study of which one is killed."""

import csv
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blockwork.search.errors import SearchError
from blockwork.search.storage import open_storage
from blockwork.tests.support.postgres import postgresql
from refhost.client import Client
from refhost.server import Server

optuna = pytest.importorskip("optuna")
PACK = Path(__file__).parent / "search_pack"


def test_the_template_searches_the_demo_models_and_resumes(client, example):
    prompt = example("search_demo")
    prompt["4"]["inputs"] |= {"study": f"template {time.time_ns()}", "trials": 3}
    prompt["5"]["inputs"] |= {
        "prompts": "a red circle",
        "holdout_prompts": "a blue ring",
        "holdout_seeds": "11",
    }
    prompt["15"]["inputs"]["holdout"] = 1
    prompt["22"]["inputs"]["steps"] = 1
    entry = client.run(prompt)
    assert "3 with a score, 0 failed" in client.texts(entry)["16"][0]
    assert "on other seeds and prompts" in client.texts(entry)["16"][0] and len(client.images(entry)) >= 2
    prompt["4"]["inputs"]["trials"] = 4
    assert "4 with a score, 0 failed" in client.texts(client.run(prompt))["16"][0]


def test_the_template_by_eye_shows_a_generation_and_follows_the_choice(client, example):
    prompt = example("search_eye")
    prompt["4"]["inputs"] |= {"study": f"by eye {time.time_ns()}", "at_once": 2}
    prompt["9"]["inputs"]["steps"] = prompt["14"]["inputs"]["steps"] = 1
    first = client.run(prompt)["outputs"]["11"]["blockwork_choice"][0]
    assert [cell["number"] for cell in first["cells"]] == [0, 1]
    prompt["11"]["inputs"]["ranking"] = "generation 1: prefer 1"
    second = client.run(prompt)["outputs"]["11"]["blockwork_choice"][0]
    assert [(cell["number"], cell["best"]) for cell in second["cells"]] == [
        (1, True),
        (2, False),
        (3, False),
    ]
    assert second["cells"][0]["weights"] == first["cells"][1]["weights"]
    assert second["cells"][0]["file"] == first["cells"][1]["file"], "the same seeds give the same images"


def search(trials: int) -> dict:
    """A search that needs no model."""
    ask = {"study": "shared", "space": ["1", 0], "sampler": "random", "seed": 1, "trials": trials}
    return {
        "1": {
            "class_type": "BlockworkSearchSpace",
            "inputs": {"layout": "sd1", "space": "IN00-IN01 = 0..1 by 0.05"},
        },
        "2": {"class_type": "BlockworkSearchAsk", "inputs": ask},
        "3": {"class_type": "ScoreOfWeights", "inputs": {"weights": ["2", 0], "seconds": 0.1}},
        "4": {
            "class_type": "BlockworkSearchTell",
            "inputs": {"trial": ["2", 1], "score": ["3", 0], "direction": "maximize"},
        },
        "5": {"class_type": "BlockworkSearchResult", "inputs": {"study": ["4", 0], "save_csv": True}},
    }


@contextmanager
def journal(folder: Path) -> Iterator[str]:
    """A journal file on what may be a share."""
    yield f"journal:{folder / 'share' / 'studies.log'}"


def finished(address: str) -> int:
    """Trials with a score, in a storage that another process uses."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = open_storage(Path("unused"), "shared", address, must_exist=True)
        return sum(
            trial.state.name == "COMPLETE"
            for trial in optuna.load_study(study_name="shared", storage=storage).trials
        )
    except (SearchError, KeyError):
        return 0


@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_two_servers_share_a_study_and_one_is_killed(tmp_path: Path, kind: str):
    """All trials are recorded once; the killed server loses only the trial that it ran."""
    bases = [tmp_path / "one", tmp_path / "two"]
    packs = {"search_pack": PACK}
    with postgresql() if kind == "postgresql" else journal(tmp_path) as address:
        for base in bases:
            (base / "user" / "blockwork").mkdir(parents=True)
            (base / "user" / "blockwork" / "search.json").write_text(json.dumps({"storage": address}))
        with Server(bases[0], packs=packs) as one, Server(bases[1], packs=packs) as two:
            first, second = Client(one.url), Client(two.url)
            first.queue(search(40))
            waiting = second.queue(search(40))
            while finished(address) < 12:
                time.sleep(0.2)
            os.kill(one.pid, signal.SIGKILL)
            second.wait(waiting)
            second.run(search(42))  # what the killed server left open is failed, and the search goes on
            table = (bases[1] / "output" / "blockwork_search" / "shared.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(table)))
    complete = [row for row in rows if row["state"] == "complete"]
    assert 42 <= len(complete) <= 43 and len({row["weights"] for row in complete}) == len(complete)
    assert [row["state"] for row in rows if row["state"] != "complete"] in ([], ["failed"])
    assert all(float(row["score"]) == len(row["weights"]) for row in complete)
    assert not (bases[0] / "user" / "blockwork" / "studies").exists()
