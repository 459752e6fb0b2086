"""Runs the sweeps of a workflow on several ComfyUI servers, with Dask.

    python tools/run_sweep.py WORKFLOW.json FOLDER --server http://one:8188 --server http://two:8188

WORKFLOW.json is a workflow with Block Sweep or Block Growth nodes, saved with ComfyUI's "Export (API)". FOLDER gets
one file per finished cell in cells/, and the images and texts of the workflow. A run that was stopped goes on where it
stopped. --scheduler tcp://host:8786 uses a Dask cluster: its workers with the resource comfyui, whose names are the
addresses of their ComfyUI, and one more per --server. Needs `pip install distributed` (and bokeh for its dashboard).
"""

import argparse
import asyncio
import io
import json
import logging
import struct
import sys
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import distributed
from refhost import client as refhost_client
from refhost import on_worker
from refhost.client import Prompt
from refhost.on_worker import RESOURCE, Images
from refhost.pack import load_pack

load_pack()

from blockwork.blocks.names import BlockError  # noqa: E402  # pyright: ignore[reportMissingImports]
from blockwork.study import cells as study  # noqa: E402  # pyright: ignore[reportMissingImports]

PNG = b"\x89PNG\r\n\x1a\n"
ALIVE = 1.0  # seconds between two looks whether a server is left


class NoServer(RuntimeError):
    """No worker with a ComfyUI is left."""


@dataclass
class Run:
    """What a run did: the address of the server per cell that ran, how many cells there are, and what was written."""

    ran: dict[str, str] = field(default_factory=dict)
    total: int = 0
    written: list[Path] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0  # that the cells took on their servers


async def run(
    prompt: Prompt,
    folder: Path,
    servers: Sequence[str] = (),
    scheduler: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> Run:
    """Run the sweeps of ``prompt``; ``tell`` gets a line per cell.

    BlockError for a workflow that has no sweep, RuntimeError for the first error of a server, NoServer when all are gone.
    """
    study.sweeps_of(prompt)
    for module in (refhost_client, on_worker):
        cloudpickle.register_pickle_by_value(module)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        local = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        if not scheduler:
            own = await enter(distributed.Scheduler(host="127.0.0.1", port=0, dashboard_address=":8787"))
            scheduler = own.address
        for url in servers:
            await enter(
                distributed.Worker(
                    scheduler,
                    name=url.rstrip("/"),
                    nthreads=1,
                    resources={RESOURCE: 1},
                    memory_limit=0,
                    local_directory=local,
                    dashboard=False,
                )
            )
        client = await enter(distributed.Client(scheduler, asynchronous=True))
        tell(f"Dask dashboard: {client.dashboard_link}")
        await _workers(client)
        work = asyncio.ensure_future(_run(client, prompt, folder, tell))
        watch = asyncio.ensure_future(_watch(client))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                watch.result()
            return await work
        finally:
            work.cancel()
            watch.cancel()
            with suppress(NoServer):
                await client.run(on_worker.stop, workers=await _workers(client), on_error="ignore")


async def _run(client: distributed.Client, prompt: Prompt, folder: Path, tell: Callable[[str], None]) -> Run:
    def submit(work: Callable, *arguments: Any) -> distributed.Future:
        # Only a function that plain pickle cannot name is sent whole, to workers that do not have this module.
        key = f"{work.__name__}-{uuid.uuid4().hex}"
        return client.submit(lambda *given: work(*given), *arguments, resources={RESOURCE: 1}, key=key)

    texts = await submit(on_worker.plan, study.listing(prompt))
    expansions = {key: texts[f"list_{key}"] for key in study.sweeps_of(prompt)}
    found = study.cells(prompt, expansions)
    files = await _model_files(client, sorted(study.named_texts(found)))
    paths = [folder / "cells" / f"{study.digest(cell, files)}.zip" for cell in found]
    missing = {path: cell for path, cell in zip(paths, found, strict=True) if not path.exists()}
    done = Run(total=len(found))
    tell(f"{len(found)} cells, {len(missing)} to run")
    futures = {submit(on_worker.cell, cell.prompt, cell.previews): path for path, cell in missing.items()}
    async for future in distributed.as_completed(list(futures)):
        url, seconds, images = await future
        path = futures[future]
        _write(path, images)
        done.ran[missing[path].name] = url
        done.seconds += seconds
        future.release()
        tell(f"{len(done.ran)} of {len(missing)}: {missing[path].name}, {seconds:.1f} s on {url}")
    batches = [(path.stem, batch) for path in paths for batch in _read(path)]
    names = [
        [f"{stem}_{number}_{place}.png" for place in range(len(batch))]
        for number, (stem, batch) in enumerate(batches)
    ]
    uploads = {
        name: data
        for group, (_, batch) in zip(names, batches, strict=True)
        for name, data in zip(group, batch, strict=True)
    }
    loads = [[f"{on_worker.SUBFOLDER}/{name} [temp]" for name in group] for group in names]
    result = await submit(on_worker.assemble, study.assemble(prompt, expansions, loads), uploads)
    for name, data in result["files"]:
        done.written.append(folder / Path(name).name)
        done.written[-1].write_bytes(
            _with_prompt(data, lambda assembled: study.marked(prompt, expansions, assembled))
        )
    done.texts = result["texts"]
    for node, lines in done.texts.items():
        done.written.append(folder / f"{node}.txt")
        done.written[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return done


async def _workers(client: distributed.Client) -> list[str]:
    """The addresses of Dask's workers that have a ComfyUI, in the order of their names; NoServer where none is left."""
    assert client.scheduler is not None
    known: Any = await client.scheduler.identity(n_workers=-1)
    found = {
        worker["name"]: address
        for address, worker in known["workers"].items()
        if RESOURCE in worker["resources"]
    }
    for name in found:
        if not str(name).startswith(("http://", "https://")):
            raise BlockError(
                f"The Dask worker {name} has the resource {RESOURCE}, and its name is not an address. Start it with "
                "--name http://host:8188, the address of its ComfyUI."
            )
    if not found:
        raise NoServer(
            "No server is left: none of the ComfyUI servers answers. Start them and run the command again; finished "
            "cells are kept."
        )
    return [found[name] for name in sorted(found)]


async def _watch(client: distributed.Client) -> None:
    while True:
        await asyncio.sleep(ALIVE)
        await _workers(client)


async def _model_files(client: distributed.Client, names: list[str]) -> dict[str, Any]:
    """Folder, size and time of the model files, as the first server has them; RuntimeError where servers differ."""
    told = await client.run(on_worker.model_files, names=names, workers=await _workers(client))
    lists = [files for files in told.values() if not isinstance(files, str)]
    sizes = [{name: [file[:2] for file in files] for name, files in one.items()} for one in lists]
    for one in sizes[1:]:
        for name in one.keys() & sizes[0].keys():
            if one[name] != sizes[0][name]:
                raise RuntimeError(
                    f"The file {name} has not the same size on all servers. Copy one file to all of them."
                )
    return lists[0] if lists else {}


def _write(path: Path, images: Images) -> None:
    """The images of a cell as a ZIP file of PNG files, which has its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    with zipfile.ZipFile(half, "w") as archive:
        for number, batch in enumerate(images):
            for place, data in enumerate(batch):
                archive.writestr(f"{number:04}_{place:03}.png", data)
    half.replace(path)


def _read(path: Path) -> Images:
    batches: dict[str, list[bytes]] = {}
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        for name in sorted(archive.namelist()):
            batches.setdefault(name.partition("_")[0], []).append(archive.read(name))
    return list(batches.values())


def _with_prompt(data: bytes, given: Callable[[Prompt], Prompt]) -> bytes:
    """A PNG whose metadata holds the prompt that ``given`` makes of the assembled one; other files as they are."""
    if not data.startswith(PNG):
        return data
    out, place = [PNG], len(PNG)
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk = data[place : place + 12 + length]
        if chunk[4:15] == b"tEXtprompt\0":
            prompt = given(json.loads(chunk[15:-4]))
            body = b"tEXtprompt\0" + json.dumps(prompt).encode("latin-1")
            chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        out.append(chunk)
        place += 12 + length
    return b"".join(out)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workflow", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", action="append", default=[], metavar="URL")
    parser.add_argument("--scheduler", default="", metavar="URL")
    given = parser.parse_args()
    if not given.server and not given.scheduler:
        parser.error("give at least one --server, or a --scheduler")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    start = time.perf_counter()
    try:
        prompt = json.loads(given.workflow.read_text(encoding="utf-8"))
        done = asyncio.run(
            run(prompt, given.folder, given.server, given.scheduler, lambda line: print(line, flush=True))
        )
    except (BlockError, RuntimeError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Run the command again to go on.", file=sys.stderr)
        return 130
    print(f"{len(done.ran)} cells in {time.perf_counter() - start:.1f} s", *done.written, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
