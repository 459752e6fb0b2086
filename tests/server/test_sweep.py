"""Block sweeps through the queue of a real ComfyUI: one prompt and interruption.

What the cache keeps, progress and bad input are looked at in tests/host/study/test_sweep_queue.py.
"""

import asyncio
import io
import json
import threading
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image
from refhost.client import Client, PromptFailed, PromptRefused

SWEEP, REPORT = "5", "8"
CELLS = ("unmodified", "IN04_0.75", "M00_0.75", "OUT04_0.75")


class Listener:
    """Collects the ids of the nodes a server says it executes, as the front-end does."""

    def __init__(self, client: Client):
        self.executing: list[str] = []
        self.shown: dict[str, dict] = {}  # sweeps for the browser, by the node that shows them
        self._url = f"{client.url}/ws?clientId={client.client_id}"
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._listen()))

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_):
        time.sleep(0.3)  # the last messages
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        self._loop.close()

    async def _listen(self):
        self._task = asyncio.current_task()
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(self._url) as socket:
                self._ready.set()
                async for message in socket:
                    data = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
                    if data.get("type") == "executing" and data["data"].get("node"):
                        self.executing.append(data["data"]["node"])
                    if data.get("type") == "executed" and "blockwork_sweep" in (data["data"]["output"] or {}):
                        [sweep] = data["data"]["output"]["blockwork_sweep"]
                        self.shown[data["data"]["display_node"]] = sweep
        except asyncio.CancelledError:
            pass

    def sampled(self) -> list[str]:
        """The pictures that were sampled, as cell_seed, in order; ids are 5.0.0.IN04_0.75_1_sample."""
        return [n.split(".", 3)[3].removesuffix("_sample") for n in self.executing if n.endswith("_sample")]


@pytest.fixture
def small(example):
    """An example with three blocks and two seeds: ``small(name, **inputs of the sweep)``."""

    def make(name="block_sweep", **inputs):
        prompt = example(name)
        prompt[SWEEP]["inputs"] |= {
            "blocks": "IN04, M00, OUT04",
            "seeds": "1, 2",
            "cell_size": 64,
            "steps": 1,
        }
        prompt[SWEEP]["inputs"] |= {"steps": 1, "cfg": 1.0} | inputs
        return prompt

    return make


def picture(client, entry, number=0):
    return np.asarray(Image.open(io.BytesIO(client.images(entry)[number])))


def test_one_prompt_samples_every_cell_once_and_again_none(client, small):
    prompt = small(seeds="21, 22")  # seeds of no other test: finished cells are kept
    with Listener(client) as listener:
        entry = client.run(prompt)
    assert listener.sampled() == [f"{cell}_{seed}" for cell in CELLS for seed in (21, 22)]
    assert picture(client, entry).shape[1] == 3 * (2 * 67 + 28) + 14
    report = client.texts(entry)[REPORT][0]
    assert report.startswith("each block x 0.75, seeds 21, 22") and "OUT04 = 0.75" in report
    assert list(listener.shown) == [SWEEP], "the node in the user's graph shows the sweep"
    cells = listener.shown[SWEEP]["cells"]
    assert [cell["block"] for cell in cells] == [None, "IN04", "M00", "OUT04"]
    for cell in cells:
        assert Image.open(io.BytesIO(client.get_bytes("/view", **cell["file"]))).size == (2 * 64, 64)
    with Listener(client) as listener:
        again = client.run(prompt)
    assert listener.executing == []
    assert listener.shown[SWEEP]["cells"] == cells, "a page that was loaded again gets the view"
    assert np.array_equal(picture(client, again), picture(client, entry))


def test_a_sweep_is_saved_as_a_page(client, server, small):
    entry = client.run(small(page="studies/my_sweep", seeds="1"))
    report = client.texts(entry)[REPORT][0]
    path = Path(report.rsplit("Page: ", 1)[1])
    assert path.parent == server.base / "output" / "studies" and path.name.startswith("my_sweep_")
    assert path.read_text(encoding="utf-8").count("data:image/jpeg") == 4
    with Listener(client) as listener:
        client.run(small(seeds="1"))
    assert listener.sampled() == [], "a page does not change what is sampled"
    with pytest.raises(PromptRefused, match="not a name for a file"):
        client.queue(small(page="../my_sweep", seeds="1"))


def test_an_interrupted_sweep_goes_on_where_it_stopped(client, small):
    prompt = small(seeds="11, 12")
    with Listener(client) as listener:
        prompt_id = client.queue(prompt)
        while len(listener.sampled()) < 4:
            time.sleep(0.01)
        client.post("/interrupt", {})
        with pytest.raises(PromptFailed):
            client.wait(prompt_id)
    before = listener.sampled()
    assert len(before) < 8, "the sweep ended before it could be interrupted"
    with Listener(client) as listener:
        entry = client.run(prompt)
    after = listener.sampled()
    everything = [f"{cell}_{seed}" for cell in CELLS for seed in (11, 12)]
    assert after in (
        everything[len(before) - 1 :],
        everything[len(before) :],
    )  # the one it was stopped in, again
    assert picture(client, entry).std() > 0


def test_blocks_from_a_second_model(client, small):
    entry = client.run(small("block_sweep_swap", seeds="1"))
    assert client.texts(entry)[REPORT][0].startswith("each block 1 of B")
    both = small("block_sweep_swap", ratios="0", seeds="1")
    lines = client.texts(client.run(both))[REPORT][0].splitlines()[2:]
    assert len(lines) == 3
    assert all(float(line.split()[-1]) == 0 for line in lines)  # nothing of B: the unmodified picture
    free = small("block_sweep_swap", blocks="IN04", ratios="0.5", share_a="0.75", seeds="1")
    assert "IN04 = 0.5" in client.texts(client.run(free))[REPORT][0]


def test_one_block_at_many_ratios(client, small):
    entry = client.run(small("block_sweep_ratios", blocks="OUT04", ratios="0, 0.75, 1", seeds="1"))
    table = client.texts(entry)[REPORT][0].splitlines()
    assert table[-1].split()[:3] == ["OUT04", "=", "1"] and float(table[-1].split()[-1]) == 0
    assert picture(client, entry).shape[1] == 67 + 28 + 14


def test_every_block_of_sdxl_from_its_checkpoint(client, small, sdxl_checkpoints):
    prompt = small(blocks="ALL", seeds="1")
    prompt["1"]["inputs"]["ckpt_name"] = "sdxl_a.safetensors"
    with Listener(client) as listener:
        entry = client.run(prompt)
    blocks = [*(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9))]
    assert listener.sampled() == [f"{cell}_1" for cell in ("unmodified", *(f"{b}_0.75" for b in blocks))]
    lines = client.texts(entry)[REPORT][0].splitlines()[2:]
    assert sorted(line.split()[0] for line in lines) == sorted(blocks)
    assert all(float(line.split()[-1]) > 0 for line in lines), "every block moves the picture"
