"""How near a simulated person comes to a hidden optimum by choosing images, with each sampler.

Printed: the distance of the best from the optimum in a unit cube, its mean and standard error over the seeds. Needs
optuna and cmaes. Argument: number of seeds (10).
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from refhost.pack import load_pack

load_pack()

from blockwork.tests.support.chooser import choose

# free numbers, generations, candidates, how many are preferred
CASES = ((5, 10, 6, 3), (5, 10, 6, 1), (12, 12, 8, 3))
SAMPLERS = ("TPE", "CMA-ES", "random")


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print("| free numbers | generations | candidates | preferred | " + " | ".join(SAMPLERS) + " |")
    print("|---" * (4 + len(SAMPLERS)) + "|")
    for case in CASES:
        cells = []
        for sampler in SAMPLERS:
            found = [choose(sampler, seed, *case)[1][0] for seed in range(seeds)]
            error = statistics.stdev(found) / len(found) ** 0.5
            cells.append(f"{statistics.mean(found):.3f} ({error:.3f})")
        print(f"| {' | '.join(map(str, case))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
