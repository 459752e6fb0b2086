"""Exports a block sweep as plain API prompts, and runs them on any number of ComfyUI servers.

    python3 tools/export_sweep.py WORKFLOW.json FOLDER [--layout sd1|sdxl] [--run URL [URL ...]]

WORKFLOW.json is a workflow with one Block Sweep node, saved with ComfyUI's "Export (API)". FOLDER gets one prompt
per cell and assemble.json, which loads the pictures of all cells, draws the grid and goes on as the workflow did.
With --run the cells are queued on the servers, each taking the next when it is free, and assemble.json on the first.
The servers must share their output folder. Needs no packages.
"""

import argparse
import json
import queue
import sys
import threading
from pathlib import Path

from refhost.client import Client, Prompt
from refhost.pack import load_pack

load_pack()

from blockwork.blocks.names import BlockError  # noqa: E402  # pyright: ignore[reportMissingImports]
from blockwork.study.graph import export  # noqa: E402  # pyright: ignore[reportMissingImports]


def write(prompts: dict[str, Prompt], folder: Path) -> list[Path]:
    """One file per prompt; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json" for name in prompts]
    for path, prompt in zip(paths, prompts.values(), strict=True):
        path.write_text(json.dumps(prompt, indent=1), encoding="utf-8")
    return paths


def run(prompts: dict[str, Prompt], clients: list[Client]) -> tuple[dict, dict[str, int]]:
    """Run the cells on all servers at once, then ``assemble`` on the first.

    Returns its history entry, and which server ran which cell. The first failure of a cell is raised.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in prompts:
        if name != "assemble":
            waiting.put(name)
    ran: dict[str, int] = {}
    failures: list[Exception] = []

    def work(number: int) -> None:
        while not failures:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                clients[number].run(prompts[name], timeout=24 * 3600)
            except Exception as failure:
                failures.append(failure)
            ran[name] = number

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return clients[0].run(prompts["assemble"], timeout=24 * 3600), ran


def main() -> int:
    parser = argparse.ArgumentParser(description="Export a block sweep as API prompts, and run them.")
    parser.add_argument("workflow", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layout", default="sd1", choices=("sd1", "sd2", "sdxl"))
    parser.add_argument("--run", nargs="+", metavar="URL", default=[])
    arguments = parser.parse_args()
    try:
        prompts = export(json.loads(arguments.workflow.read_text(encoding="utf-8")), arguments.layout)
    except BlockError as error:
        print(f"export failed: {error}", file=sys.stderr)
        return 1
    paths = write(prompts, arguments.folder)
    print(f"{len(paths) - 1} cells and {paths[-1]}")
    if arguments.run:
        clients = [Client(url.rstrip("/")) for url in arguments.run]
        entry, _ = run(prompts, clients)
        for path in clients[0].save_images(entry, arguments.folder, "block_sweep"):
            print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
