"""The command that runs sweeps on several servers: the bytes of one server, a lost server, a stopped run, errors.

The demo models are in the pack, so the second server needs no files.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import run_sweep
from blockwork.blocks.names import BlockError
from refhost import layout
from refhost.server import Server

SWEEP, GRID, PLOT, REPORT = "5", "6", "7", "8"
BLOCKS = "IN01, IN02, IN04, IN05, IN07, IN08, M00, OUT03, OUT04, OUT05, OUT06"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("other")) as running:
        yield running


def sweep_prompt(text="a red circle", **inputs):
    """A sweep of 12 cells of the demo model, one step each, that saves its grid and plot."""
    sweep = {
        "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0], "vae": ["1", 2],
        "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "ratios": "0.5",
        "seeds": "1", "steps": 1, "cfg": 1.0, "blocks": BLOCKS, "cell_size": 64, "clip_vision": ["1", 3],
    }  # fmt: skip
    return {
        "1": {"class_type": "BlockworkAtelierLoader", "inputs": {"model": "base"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": text}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        SWEEP: {"class_type": "BlockworkBlockSweep", "inputs": {**sweep, **inputs}},
        GRID: {"class_type": "PreviewImage", "inputs": {"images": [SWEEP, 0]}},
        PLOT: {"class_type": "PreviewImage", "inputs": {"images": [SWEEP, 1]}},
        REPORT: {"class_type": "PreviewAny", "inputs": {"source": [SWEEP, 2]}},
    }


def growth_prompt():
    prompt = sweep_prompt()
    prompt["9"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a blue star"}}
    inputs = {name: prompt[SWEEP]["inputs"][name] for name in ("model", "positive", "negative", "vae")}
    inputs |= {
        "latent_image": ["4", 0],
        "prompt": ["9", 0],
        "order": "from coarse to fine",
        "within": "coarse",
    }
    inputs |= {
        "custom": "",
        "seed": 3,
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
    }
    prompt["4"]["inputs"]["batch_size"] = 2
    prompt[SWEEP] = {"class_type": "BlockworkBlockGrowth", "inputs": {**inputs, "denoise": 1.0}}
    del prompt[PLOT]
    return prompt


def run(prompt, folder: Path, *servers: str, tell=lambda line: None, scheduler=""):
    return asyncio.run(run_sweep.run(prompt, folder, servers, scheduler, tell))


def prompts_run(client) -> int:
    return len(client.get("/history"))


def saved(done) -> list[bytes]:
    return [path.read_bytes() for path in done.written if path.suffix == ".png"]


@pytest.mark.parametrize("make", [sweep_prompt, growth_prompt])
def test_two_servers_give_the_bytes_of_one(client, other, tmp_path, make):
    prompt = make()
    entry = client.run(prompt)
    done = run(prompt, tmp_path, client.url, other.url)
    assert set(done.ran.values()) == {client.url, other.url}, "one server did all the work"
    assert saved(done) == client.images(entry), "images with their metadata"
    assert done.texts == client.texts(entry)
    assert len(list((tmp_path / "cells").iterdir())) == done.total == len(done.ran)
    if make is sweep_prompt:
        assert done.total == 12


def test_a_stopped_run_runs_what_is_missing(client, other, tmp_path):
    prompt = sweep_prompt("a green square")

    class Stopped(Exception):
        pass

    def stop_after_four(line: str) -> None:
        if line.startswith("4 of 12"):
            raise Stopped

    with pytest.raises(Stopped):
        run(prompt, tmp_path, client.url, other.url, tell=stop_after_four)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.zip")}
    assert len(kept) == 4
    done = run(prompt, tmp_path, client.url)
    assert len(done.ran) == 8
    cells = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.zip")}
    assert len(cells) == 12 and kept.items() <= cells.items()
    assert saved(done) == client.images(client.run(prompt))
    before = prompts_run(client)
    assert run(prompt, tmp_path, client.url).ran == {}
    assert prompts_run(client) == before + 2, "one prompt lists the cells and one puts them together"


def test_an_error_of_a_node_stops_the_run(client, other, tmp_path):
    prompt = sweep_prompt("a blue circle")
    video = {"width": 64, "height": 64, "length": 1, "batch_size": 1}
    prompt["4"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": video}
    told = []
    with pytest.raises(RuntimeError, match=r"^http://127\.0\.0\.1:\d+: KSampler: "):
        run(prompt, tmp_path, client.url, other.url, tell=told.append)
    assert "12 cells, 12 to run" in told and not list(tmp_path.rglob("*.zip"))
    prompt["4"]["class_type"] = "NoSuchNode"
    with pytest.raises(RuntimeError, match=r"(?s)^http://127.*NoSuchNode"):
        run(prompt, tmp_path, client.url)


def test_a_cluster_of_dask_s_own_runs_the_cells(client, tmp_path):
    """Its worker is a process that knows nothing of the pack; its name is the address of its ComfyUI."""
    prompt, file = sweep_prompt("a white circle", blocks="M00"), tmp_path / "scheduler.json"
    dask = layout.venv_bin("dask")
    worker = [
        "--name",
        client.url,
        "--resources",
        "comfyui=1",
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
    ]
    with ExitStack() as stack:
        for command in (["scheduler", "--port", "0", "--no-dashboard"], ["worker", *worker]):
            process = subprocess.Popen(
                [dask, *command, "--scheduler-file", file], cwd=tmp_path, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            while not file.exists():
                time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for _ in range(100):
            try:
                done = run(prompt, tmp_path, scheduler=address)
                break
            except run_sweep.NoServer:  # the worker is not there yet
                time.sleep(0.2)
    assert len(done.ran) == 2 and saved(done) == client.images(client.run(prompt))


def test_what_is_not_a_sweep_is_refused(tmp_path):
    prompt = sweep_prompt()
    prompt["2"]["inputs"]["text"] = [SWEEP, 2]
    prompt["50"] = {**prompt[SWEEP], "inputs": {**prompt[SWEEP]["inputs"], "positive": ["2", 0]}}
    prompt[SWEEP] = {**prompt[SWEEP], "inputs": {**prompt[SWEEP]["inputs"], "positive": ["3", 0]}}
    with pytest.raises(BlockError, match="The sweep 50 reads from the sweep 5"):
        run(prompt, tmp_path)
    with pytest.raises(BlockError, match="has no sweep"):
        run({"1": prompt["1"]}, tmp_path)
    with pytest.raises(BlockError, match="API form"):
        run({"nodes": [], "version": 1}, tmp_path)


def test_a_killed_server_s_cells_run_on_the_other(client, other, tmp_path):
    """The last test: the second server is gone after it."""
    prompt = sweep_prompt("a yellow triangle")
    before = prompts_run(client)

    def kill(line: str) -> None:
        if line.startswith("4 of 12"):
            os.kill(other.pid, signal.SIGKILL)

    done = run(prompt, tmp_path, other.url, client.url, tell=kill)
    assert len(done.ran) == 12 and set(done.ran.values()) == {client.url, other.url}
    assert len(list((tmp_path / "cells").glob("*.zip"))) == 12
    here = [url for url in done.ran.values() if url == client.url]
    assert len(here) >= 7 and prompts_run(client) - before <= len(here) + 3
    assert saved(done) == client.images(client.run(prompt))
    with pytest.raises(run_sweep.NoServer, match="No server is left"):
        run(sweep_prompt("a black heart"), tmp_path, other.url)
