"""Trains one of the demo models, see demo_models/README.md: ``train_demo_models.py unet --style ink --minutes 10``.

A run that was stopped goes on from its last checkpoint below ``.demo_models``; take that away to start anew.
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
MODELS = ("vae", "clip", "unet", "judge", "stages", "deprojectors", "tokens")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--style", help="unet: which style to go on with from the base")
    parser.add_argument(
        "--onward", action="store_const", const=True, help="unet: go on from the published weights"
    )
    parser.add_argument("--stage", help="stages: I or II")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, help="follow the clock instead of the count of steps")
    parser.add_argument("--seed", type=int)
    given = vars(parser.parse_args())
    from refhost.pack import load_pack

    load_pack()
    module = importlib.import_module(f"demo_models.{given.pop('model')}")
    module.run(**{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    main()
