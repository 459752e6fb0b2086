"""A few rows by large matrices: the ways of ``deprojector/linear.py`` against PyTorch's plain product.

The matrices together are larger than the processor's cache, as in a recursion over a whole model, so that every
product reads its weights from memory. Ways alternate; figures are medians of CPU microseconds per product.

    python benchmarks/deprojector_linear.py [--threads 1] [--repeats 9] [--megabytes 80]
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from refhost.pack import load_pack

load_pack()

from blockwork.deprojector.linear import IN_PIECES, INPUTS_FIRST, PACKED, Way, way_for

PLAIN = Way(lambda weight: weight.t(), lambda weight, x, base: torch.addmm(base, x, weight))
WAYS = {"plain": PLAIN, "inputs first": INPUTS_FIRST, "packed": PACKED, "pieces": IN_PIECES}
SHAPES = ((1536, 3072), (768, 768), (3072, 768))  # inputs, outputs: LSTM gates, its output, an MLP's way down
ROWS = (1, 2, 4, 6, 8, 16)


@torch.no_grad()
def measure(inputs: int, outputs: int, rows: int, repeats: int, megabytes: int) -> dict[str, float]:
    count = max(megabytes * 2**20 // (4 * inputs * outputs), 1)
    weights = [torch.randn(outputs, inputs) for _ in range(count)]
    x, base = torch.randn(rows, inputs), torch.randn(rows, outputs)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    laid_out = {name: [way.lay_out(weight) for weight in weights] for name, way in WAYS.items()}
    for _ in range(repeats):
        for name, way in WAYS.items():
            began = time.process_time()
            for weight in laid_out[name]:
                way.product(weight, x, base)
            taken[name].append((time.process_time() - began) / count * 1e6)
    return {name: median(values) for name, values in taken.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Times the ways of deprojector/linear.py.")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--megabytes", type=int, default=80)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    names = {way: name for name, way in WAYS.items()}
    for inputs, outputs in SHAPES:
        for rows in ROWS:
            found = measure(inputs, outputs, rows, options.repeats, options.megabytes)
            chosen = names[way_for(torch.empty(outputs, inputs), rows) or PLAIN]
            figures = ", ".join(f"{name} {value:.0f}" for name, value in found.items())
            ratio = found["plain"] / found[chosen]
            print(f"{rows} x {inputs} -> {outputs}: {figures} us; taken: {chosen}, {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main()
