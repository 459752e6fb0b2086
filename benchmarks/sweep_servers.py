"""What `tools/run_sweep.py` adds to a sweep: seconds per cell on one server and on two, and the same images.

    .venv/bin/python benchmarks/sweep_servers.py [STEPS]

The sweep has 26 cells of the demo model. "One prompt" is Block Sweep itself; the overhead of a run is its wall time
less the seconds that servers took for its prompts, per cell. Two servers on one machine share its cores: the second
line shows that the work is spread, not a gain in speed.
"""

import asyncio
import json
import logging
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import run_sweep
from refhost import layout
from refhost.client import Client
from refhost.server import Server

BASE = layout.HOST / "sweep_servers"


def sweep_prompt(steps: int) -> dict:
    path = layout.ROOT / "example_workflows" / "api" / "block_sweep.json"
    prompt = json.loads(path.read_text(encoding="utf-8"))
    prompt["1"] = {"class_type": "BlockworkAtelierLoader", "inputs": {"model": "base"}}
    prompt["4"]["inputs"] |= {"width": 64, "height": 64}
    prompt["5"]["inputs"] |= {"steps": steps, "cfg": 1.0, "seeds": "1"}
    return prompt


def run_on(prompt: dict, urls: list[str]) -> tuple[run_sweep.Run, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = asyncio.run(run_sweep.run(prompt, Path(folder), urls))
        return done, time.perf_counter() - start


def main() -> None:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    prompt = sweep_prompt(int(sys.argv[1]) if sys.argv[1:] else 4)
    with ExitStack() as stack:
        urls = [stack.enter_context(Server(BASE / str(n))).url for n in range(2)]
        run_on(sweep_prompt(1), urls)  # loads the model on both
        start = time.perf_counter()
        Client(urls[0]).run(prompt)
        print(f"one prompt: {time.perf_counter() - start:.2f} s", flush=True)
        prompt["2"]["inputs"]["text"] += "."  # nothing comes from the cache
        done, wall = run_on(prompt, urls[:1])
        over = (wall - done.seconds) / done.total
        print(
            f"one server: {done.total} cells, {wall:.2f} s, {done.seconds:.2f} s of it on the server, "
            f"overhead {1000 * over:.0f} ms per cell (with listing the cells and drawing the grid)",
            flush=True,
        )
        prompt["2"]["inputs"]["text"] += "."
        done, wall = run_on(prompt, urls)
        counts = [list(done.ran.values()).count(url) for url in urls]
        print(f"two servers: {wall:.2f} s, cells per server {counts}")


if __name__ == "__main__":
    main()
