"""What the pack adds to ComfyUI's start: CPU seconds to import it and build every schema, in fresh processes.

    .venv/bin/python benchmarks/import_time.py

Core's own modules are imported before the clock starts, as they are when ComfyUI loads custom nodes. The first,
uncounted process leaves the bytecode behind. Prints the median of five; the target is 0.3 s.
"""

import statistics
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / "tools"

PROCESS = """
import asyncio, sys, time
sys.path.insert(0, {tools!r})
from refhost.pack import load_pack, use_comfyui
use_comfyui()
sys.argv = ["main.py"]
import nodes, server, execution, latent_preview, comfy.sd, comfy_api.latest
started = time.process_time()
pack = load_pack()
extension = asyncio.run(pack.comfy_entrypoint())
schemas = [node.GET_SCHEMA() for node in asyncio.run(extension.get_node_list())]
print(len(schemas), time.process_time() - started)
"""


def main() -> None:
    runs = []
    for _ in range(6):
        command = [sys.executable, "-c", PROCESS.format(tools=str(TOOLS))]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append(printed.split()[-2:])
    seconds = [float(run[1]) for run in runs[1:]]
    print(
        f"import of the pack ({runs[0][0]} nodes): {statistics.median(seconds):.3f} CPU s (min {min(seconds):.3f})"
    )


if __name__ == "__main__":
    main()
